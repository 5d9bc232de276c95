"""Every task: declared well, its examples right and without leaks, its chance level true."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attention_impls import load
from attention_impls.sequence import SequenceEncoder, SequenceSize
from bench.catalogue import read_catalogue
from bench.dataset import IGNORED, Split
from bench.datasets import listops, pathfinder
from bench.learning import learn
from bench.sequence_task import TEST_SEED, SequenceTask
from bench.task import Assignment, Task, task, tasks
from bench.tasks import histogram, masked_copy, mqar, needle, stacked_mqar

ROOT = Path(__file__).parents[2]
GENERATED = [
    setting
    for module in (stacked_mqar, mqar, needle, histogram, masked_copy)
    for setting in module.SETTINGS
]
NAMES = [setting.task().name for setting in GENERATED]


def draw(setting: SequenceTask, items: int, seed: int = 7) -> Split:
    return setting.generate(items, torch.Generator().manual_seed(seed))


def test_every_task_says_where_its_examples_come_from() -> None:
    found = {entry.name: entry for entry in read_catalogue().tasks}
    for entry in found.values():
        assert len(entry.data) > 50
        assert entry.data_source is not None
        assert (ROOT / entry.data_source).is_file()
    assert found["digits"].data_source == "bench/datasets/digits.py"
    assert found["fashion_mnist_49"].data_source == "bench/datasets/fashion_mnist.py"
    assert found["cifar10_jpeg_64"].data_source == "bench/datasets/cifar10_jpeg.py"
    assert found["needle_64"].data_source == found["needle_64"].source == "bench/tasks/needle.py"


@pytest.mark.parametrize("one", tasks(), ids=lambda t: t.name)
def test_a_task_declares_itself(one: Task) -> None:
    assert task(one.name) is one
    assert 0 < one.chance < 1
    assert one.test_items is not None
    assert one.test_items >= 256
    assert one.revision >= 1
    assert "network" in one.recipe
    assert one.tokens is not None
    assert one.name == "digits" or one.name.endswith(f"_{one.tokens}")


def test_names_and_digests_are_unique() -> None:
    assert len({t.name for t in tasks()}) == len(tasks())
    assert len({t.recipe_sha256 for t in tasks()}) == len(tasks())


def test_a_file_with_foreign_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.task as module

    wrong = SimpleNamespace(TASKS=(task("digits"),))
    monkeypatch.setattr(module.importlib, "import_module", lambda _: wrong)
    with pytest.raises(TypeError, match="TASKS must be tasks named needle_<length>"):
        module._in_file("needle")
    empty = SimpleNamespace()
    monkeypatch.setattr(module.importlib, "import_module", lambda _: empty)
    with pytest.raises(TypeError, match="TASK is missing"):
        module._in_file("needle")


@pytest.mark.parametrize("setting", GENERATED, ids=NAMES)
def test_examples_have_the_declared_sizes(setting: SequenceTask) -> None:
    split = draw(setting, 40)
    size = setting.size
    assert split.inputs.shape[:2] == (40, size.tokens)
    assert split.counted == 40 * setting.counted_per_example
    counted = split.labels[split.labels != IGNORED]
    assert int(counted.min()) >= 0
    assert int(counted.max()) < size.classes
    if size.vocabulary > 0 and split.inputs.ndim == 2:
        assert int(split.inputs.max()) < size.vocabulary


@pytest.mark.parametrize("setting", GENERATED, ids=NAMES)
def test_examples_are_the_same_every_time_and_test_is_not_train(setting: SequenceTask) -> None:
    first, again, other = (draw(setting, 30, seed) for seed in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.labels, again.labels)
    train = {row.numpy().tobytes() for row in first.inputs}
    assert not train & {row.numpy().tobytes() for row in other.inputs}


def off_chance(split: Split, chance: float) -> float:
    """Best constant answer minus `chance`, in what their difference may be."""
    labels = split.labels[split.labels != IGNORED]
    most = Counter(labels.tolist()).most_common(1)[0][1] / len(labels)
    return (most - chance) / (4 * (chance * (1 - chance) / len(labels)) ** 0.5 + 0.005)


@pytest.mark.parametrize("setting", GENERATED, ids=NAMES)
def test_chance_is_what_the_best_constant_answer_reaches(setting: SequenceTask) -> None:
    assert abs(off_chance(draw(setting, 400), setting.chance)) < 1


def test_a_chance_that_needs_a_look_at_the_input_is_refused() -> None:
    """Naming one of the values that occur is right in 1 of 16, but no answer is right as often."""
    setting = stacked_mqar.SETTINGS[0]
    assert off_chance(draw(setting, 400), 1 / 16) < -1


@pytest.mark.parametrize("setting", [s[0] for s in (
    stacked_mqar.SETTINGS, mqar.SETTINGS, needle.SETTINGS, histogram.SETTINGS,
    masked_copy.SETTINGS)], ids=lambda s: s.file)  # fmt: skip
def test_no_test_example_is_a_training_example(setting: SequenceTask) -> None:
    data = setting.data()
    seen = {row.numpy().tobytes() for row in data.train.inputs}
    assert len(data.test.inputs) == setting.examples.test
    assert not seen & {row.numpy().tobytes() for row in data.test.inputs}


def test_stacked_recall_is_answered_by_looking_the_key_up() -> None:
    split = draw(stacked_mqar.SETTINGS[0], 50)
    for ids, labels in zip(split.inputs.tolist(), split.labels.tolist(), strict=True):
        pairs, queries = dict(ids[:16]), ids[16:]
        assert len(pairs) == 16
        assert all(value == stacked_mqar.VALUES for _, value in queries)
        assert [pairs[key] for key, _ in queries] == labels[16:]
        assert set(labels[:16]) == {IGNORED}


def test_recall_in_a_stream_is_answered_by_the_token_after_the_key() -> None:
    setting = mqar.SETTINGS[0]
    split = draw(setting, 50)
    for ids, labels in zip(split.inputs.tolist(), split.labels.tolist(), strict=True):
        after = {ids[i]: ids[i + 1] for i in range(0, 16, 2)}
        asked = [i for i, label in enumerate(labels) if label != IGNORED]
        assert sorted(ids[i] for i in asked) == sorted(after)
        assert all(after[ids[i]] - 1 - mqar.KEYS == labels[i] for i in asked)
        assert all(ids[i] == mqar.FILLER for i in range(16, 64) if i not in asked)


def test_one_token_is_marked_and_its_class_is_the_label() -> None:
    split = draw(needle.SETTINGS[0], 50)
    ids = split.inputs.long()
    marked = (ids >= needle.CLASSES) & (ids < 2 * needle.CLASSES)
    assert marked.sum(1).eq(1).all()
    assert torch.equal(ids[marked] - needle.CLASSES, split.labels)
    assert ids[:, -1].eq(2 * needle.CLASSES).all()


def test_counts_are_counts() -> None:
    split = draw(histogram.SETTINGS[0], 20)
    for ids, labels in zip(split.inputs.tolist(), split.labels.tolist(), strict=True):
        count = Counter(ids)
        assert labels == [min(count[i], histogram.CLASSES) - 1 for i in ids]


def test_masks_hide_what_they_must_name() -> None:
    split = draw(masked_copy.SETTINGS[0], 20)
    half = split.inputs.shape[1] // 2
    assert torch.equal(split.inputs[:, :half].long(), split.labels[:, half:])
    assert split.inputs[:, half:].eq(masked_copy.CLASSES).all()


# ListOps ------------------------------------------------------------------------------------------

SMALL = listops.Rules(deepest=4, most_arguments=5, above=8, below=65, balanced=True)


def test_expressions_have_the_answer_of_their_tokens_and_are_balanced() -> None:
    split = listops.examples(200, 3, SMALL)
    assert Counter(split.labels.tolist()) == dict.fromkeys(range(10), 20)
    for ids, answer in zip(split.inputs.tolist(), split.labels.tolist(), strict=True):
        tokens = [i for i in ids if i != listops.PAD]
        assert 8 < len(tokens) < 65
        assert ids[len(tokens) :] == [listops.PAD] * (64 - len(tokens))
        assert listops.evaluated(tokens) == answer


@pytest.mark.parametrize(
    ("operator", "values", "answer"),
    [(listops.MINIMUM, [3, 1, 2], 1), (listops.MAXIMUM, [3, 9, 2], 9),
     (listops.MEDIAN, [1, 9, 5], 5), (listops.MEDIAN, [1, 4], 2), (listops.SUM, [7, 8], 5)],
)  # fmt: skip
def test_operators(operator: int, values: list[int], answer: int) -> None:
    assert listops.applied(operator, values) == answer


def test_a_wrong_answer_would_be_noticed() -> None:
    """Negative control: the evaluation depends on the tokens."""
    inside = [listops.MAXIMUM, listops.DIGITS[3], listops.DIGITS[8], listops.CLOSE]
    assert listops.evaluated(inside) == 8
    assert listops.evaluated([listops.MINIMUM, *inside[1:]]) == 3
    outer = [listops.SUM, *inside, listops.DIGITS[5], listops.CLOSE]
    assert listops.evaluated(outer) == 3


def test_the_chance_of_the_arenas_expressions_is_their_most_frequent_answer() -> None:
    lra = task("listops_1999")
    answers = listops.examples(2_000, TEST_SEED, lra.recipe["rules"]).labels.tolist()
    assert Counter(answers).most_common(1) == [(0, round(lra.chance * 2_000))]


def test_expressions_of_both_parts_are_never_the_same() -> None:
    """Few different expressions exist under these rules, so that chance alone would repeat some."""
    rules = listops.Rules(deepest=2, most_arguments=2, above=3, below=5, balanced=False)

    def shared(test: Split) -> int:
        train = {row.numpy().tobytes() for row in listops.examples(300, 1, rules).inputs}
        return sum(row.numpy().tobytes() in train for row in test.inputs)

    assert shared(listops.examples(60, 2, rules)) > 10
    data = listops.data(300, 60, (1, 2), rules)
    assert shared(data.test) == 0
    assert len({row.numpy().tobytes() for row in data.test.inputs}) == 60


def test_lists_are_those_of_the_arenas_generator() -> None:
    """Its rules, written out a second time, on its own terms: a tree first, then its length."""
    draws = random.Random(5)

    def tree(depth: int) -> object:
        if depth >= 10 or draws.random() > 0.25:
            return draws.randrange(10)
        return [draws.choice(listops.OPERATORS), *(tree(depth + 1)
                for _ in range(draws.randint(2, 10)))]  # fmt: skip

    def length(node: object) -> int:
        return 2 + sum(map(length, node[1:])) if isinstance(node, list) else 1

    wanted: list[int] = []
    while len(wanted) < 300:
        size = length(tree(1))
        if 500 < size < 2000:
            wanted.append(size)
    ours = (listops.examples(300, 6, task("listops_1999").recipe["rules"]).inputs != 0).sum(1)
    theirs = torch.tensor(wanted).double()
    # means of 300 lengths that spread by 400
    assert abs(float(ours.double().mean() - theirs.mean())) < 4 * 2**0.5 * 420 / 300**0.5
    assert 501 <= int(ours.min()) <= int(ours.max()) <= 1999


# Pathfinder ---------------------------------------------------------------------------------------

EASY = pathfinder.Rules(dashes=6)


def test_pictures_are_reproducible_and_balanced() -> None:
    first, again = (pathfinder.examples(12, 5, EASY) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)
    assert first.labels.tolist() == [0, 1] * 6
    assert first.inputs.shape == (12, 1, 32, 32)
    assert 0.02 < float(first.inputs.float().mean() / 255) < 0.3


def test_curves_are_whole_and_apart() -> None:
    draws = np.random.default_rng(0)
    found = [c for _ in range(40) if (c := pathfinder._two_curves(draws, EASY)) is not None]
    assert len(found) > 5
    for curves in found:
        for curve in curves:
            assert curve.shape == (6, 2, 2)
            gaps = np.linalg.norm(curve[1:, 0] - curve[:-1, 1], axis=1)
            assert gaps == pytest.approx(1.0)
            assert np.linalg.norm(curve[:, 1] - curve[:, 0], axis=1) == pytest.approx(2.0)
        apart = np.linalg.norm(
            pathfinder._points([curves[0]])[:, None] - pathfinder._points([curves[1]]), axis=-1
        )
        assert apart.min() > 0.5


@pytest.mark.parametrize("dashes", [6, 14])
def test_labels_say_whether_both_dots_end_one_curve(
    dashes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what was drawn alone: from dot to dot, over gaps of exactly one pixel."""
    drawn: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
    draw_picture = pathfinder._drawn

    def watched(curves: list[np.ndarray], ends: list[np.ndarray]) -> np.ndarray:
        drawn.append((curves, ends))
        return draw_picture(curves, ends)

    monkeypatch.setattr(pathfinder, "_drawn", watched)
    split = pathfinder.examples(16, 9, pathfinder.Rules(dashes=dashes))
    assert len(drawn) == 16
    for (curves, (first, second)), label, picture in zip(
        drawn, split.labels.tolist(), split.inputs[:, 0], strict=True
    ):
        assert len(curves) == 2 + 5
        assert {len(c) for c in curves} == {dashes, max(1, dashes // 3)}
        left = [dash for curve in curves for dash in curve]
        here, gap, met = first, 0.0, False
        while not met:
            ends = [np.abs(np.linalg.norm(dash - here, axis=1) - gap).min() for dash in left]
            if not ends or min(ends) > 1e-9:
                break
            dash = left.pop(int(np.argmin(ends)))
            here = dash[int(np.argmax(np.linalg.norm(dash - here, axis=1)))]
            gap, met = 1.0, bool(np.linalg.norm(here - second) < 1e-9)
        assert met == bool(label)
        # dots are the brightest places of the picture
        for end in (first, second):
            row, column = (int(np.clip(value, 0, 31)) for value in end)
            assert int(picture[row, column]) == int(picture.max())


@pytest.mark.parametrize("connected", [True, False])
def test_dots_are_on_one_curve_or_on_both(connected: bool) -> None:
    draws = np.random.default_rng(1)
    curves = None
    while curves is None:
        curves = pathfinder._two_curves(draws, EASY)
    for _ in range(10):
        ends = pathfinder._marked(draws, curves, connected=connected)
        owners = [
            [
                n
                for n, c in enumerate(curves)
                if any((end == tip).all() for tip in (c[0][0], c[-1][1]))
            ]
            for end in ends
        ]
        assert [len(owner) for owner in owners] == [1, 1]
        assert (owners[0] == owners[1]) is connected
        assert not (ends[0] == ends[1]).all()


# The encoder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["each", "last", "mean"])
def test_the_encoder_reads_out_what_it_says(readout: str) -> None:
    size = SequenceSize(
        tokens=8, vocabulary=5, classes=3, depth=1, heads=2, head_dim=4, mlp_ratio=2.0,
        positions=True, convolution=3, readout=readout,
    )  # fmt: skip
    torch.manual_seed(0)
    model = SequenceEncoder(load("softmax"), size).eval()
    logits = model(torch.randint(5, (2, 8)))
    assert logits.shape == ((2, 8, 3) if readout == "each" else (2, 3))


def test_the_convolution_sees_no_later_token() -> None:
    from attention_impls.sequence import CausalConvolution

    torch.manual_seed(0)
    convolve = CausalConvolution(4, 3)
    x = torch.randn(1, 6, 4)
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(convolve(x)[:, :4], convolve(changed)[:, :4], rtol=0, atol=0)
    assert not torch.equal(convolve(x)[:, 4:], convolve(changed)[:, 4:])


# Kept examples ------------------------------------------------------------------------------------


def test_generated_examples_are_kept_and_other_rules_are_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import generated
    from bench.dataset import Data

    monkeypatch.setenv(generated.VARIABLE, str(tmp_path))
    made: list[int] = []

    def make() -> Data:
        made.append(1)
        split = listops.examples(20, len(made), SMALL)
        return Data(split, split)

    first = generated.remembered("listops", "one", make)
    again = generated.remembered("listops", "one", make)
    assert len(made) == 1
    assert first.sha256 == again.sha256
    assert generated.remembered("listops", "two", make).sha256 != first.sha256
    assert len(list(generated.folder().iterdir())) == 2


@pytest.mark.parametrize("setting", [s[0] for s in (
    stacked_mqar.SETTINGS, mqar.SETTINGS, needle.SETTINGS, histogram.SETTINGS,
    masked_copy.SETTINGS)], ids=lambda s: s.file)  # fmt: skip
def test_every_kind_of_sequence_task_trains(setting: SequenceTask) -> None:
    few = replace(setting, examples=replace(setting.examples, train=64, test=32),
                  recipe=replace(setting.recipe, epochs=1))  # fmt: skip
    result = learn(few.task(), Assignment(spec=load("softmax"), seed=0, device="cpu")).result
    assert 0 <= result.accuracy <= 1
    assert len(result.training.losses) == 1
