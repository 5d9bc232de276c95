"""The shared training loop: deterministic, learns, resumes to the same bits, says what failed."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attention_impls import load, names
from attention_impls.shapes import UnsupportedShape
from attention_impls.vit import VisionTransformer, VisionTransformerSize
from bench.augmentation import crop_and_flip
from bench.checkpoint import CheckpointError, Kept
from bench.dataset import IGNORED, Data, Split
from bench.datasets import digits
from bench.learning import Learned, learn
from bench.recipe import Recipe, rate_at
from bench.scores import scores
from bench.task import Assignment, Epoch
from bench.tasks.digits import RECIPE, TASK
from bench.training import DivergedError, Trained, train

ROOT = Path(__file__).parents[2]
SHORT = Recipe(
    epochs=6, batch=32, learning_rate=1e-2, weight_decay=0.0, warmup=0.1, label_smoothing=0.0,
    clip_norm=1.0,
)  # fmt: skip


def problem() -> Split:
    images = torch.randn(256, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Split(images, (images.sum((1, 2, 3)) > 0).long())


def classifier(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def test_training_is_bitwise_repeatable_and_the_seed_matters() -> None:
    weights: list[Tensor] = []
    for seed in (0, 0, 1):
        model = classifier(0)
        train(model, problem(), SHORT, seed)
        weights.append(model[1].weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_data_order_does_not_depend_on_what_else_draws_random_numbers() -> None:
    """A variant that draws in its forward pass must not see another data order."""

    class Draws(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(7)
            return x

    weights: list[Tensor] = []
    for extra in (nn.Identity(), Draws()):
        model = classifier(0)
        train(nn.Sequential(extra, *model), problem(), SHORT, 0)
        weights.append(model[1].weight.detach().clone())
    assert torch.equal(weights[0], weights[1])


def test_training_learns() -> None:
    model = classifier(0)
    before = scores(model, problem(), batch=100)
    trained = train(model, problem(), SHORT, seed=0)
    after = scores(model, problem(), batch=100)
    assert after.accuracy > max(0.9, before.accuracy)
    assert after.loss < before.loss
    curves = trained.curves
    assert curves.losses[-1] < curves.losses[0]
    assert curves.accuracies[-1] > curves.accuracies[0]
    assert trained.samples == 6 * 256
    assert trained.precision == "float32"


def test_clipping_is_recorded() -> None:
    never = train(classifier(0), problem(), replace(SHORT, clip_norm=1e6), 0).curves
    always = train(classifier(0), problem(), replace(SHORT, clip_norm=1e-6), 0).curves
    assert never.clipped == [0.0] * 6
    assert always.clipped == [1.0] * 6
    assert min(never.gradient_norms) > 0


def test_a_test_batch_of_another_size_gives_the_same_scores() -> None:
    model = classifier(0)
    whole, parts = (scores(model, problem(), batch=n) for n in (256, 37))
    assert whole.accuracy == parts.accuracy
    assert whole.loss == pytest.approx(parts.loss, rel=1e-12)


# Divergence ---------------------------------------------------------------------------------------


def test_a_diverged_training_says_at_which_step() -> None:
    split = problem()
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    split.inputs[order[3 * 32 + 5]] = float("inf")
    with pytest.raises(DivergedError, match=r"loss .* step 4 of 48 \(epoch 1 of 6\)") as caught:
        train(classifier(0), split, SHORT, seed=0)
    assert (caught.value.step, caught.value.steps) == (4, 48)


def test_a_gradient_that_is_not_finite_in_the_last_step_is_found() -> None:
    class Root(nn.Module):
        """The loss stays finite, the gradient of sqrt at 0 does not."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0, 0, :2] + self.weight.sqrt()

    once = replace(SHORT, epochs=1, batch=256)
    with pytest.raises(DivergedError, match="gradient is not finite at step 1 of 1"):
        train(Root(), problem(), once, seed=0)


def test_what_was_not_finite_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that is NaN at step 2 makes the loss of step 3 NaN: it began at step 2."""
    calls = 0

    def poisoned(parameters: list[nn.Parameter], _norm: float) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, float("nan"))
        return torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", poisoned)
    with pytest.raises(DivergedError, match="gradient is not finite at step 2 of 48"):
        train(classifier(0), problem(), SHORT, seed=0)


def test_answers_that_are_not_numbers_after_training_are_an_outcome_too() -> None:
    class Bursts(nn.Module):
        """Finite while it is trained, and not afterwards."""

        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

        def forward(self, x: Tensor) -> Tensor:
            out = self.inside(x)
            return out if self.training else out / 0

    short = replace(
        TASK, network=lambda _: Bursts(), data=tiny_data,
        training=replace(SHORT, epochs=2, batch=16),
    )  # fmt: skip
    order = Assignment(spec=load("softmax"), seed=0, device="cpu")
    with pytest.raises(DivergedError, match="test loss is not finite at step 8 of 8") as caught:
        learn(short, order)
    assert caught.value.step == caught.value.steps == 8


def test_divergence_is_an_outcome_with_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import accuracy
    from bench.cases import task_cases
    from bench.model import Diverged, Protocol
    from bench.visit import visit

    wild = replace(RECIPE, epochs=2, learning_rate=1e30, clip_norm=1e30)
    monkeypatch.setattr(accuracy, "task", lambda _: replace(TASK, training=wild))
    (case,) = task_cases("softmax", "digits", seeds=1)
    outcome = visit(case, 0, Protocol(), "cpu").outcome
    assert isinstance(outcome, Diverged)
    assert 1 <= outcome.step <= outcome.steps == 2 * (1437 // 32)
    assert "not finite" in outcome.reason


# Checkpoints --------------------------------------------------------------------------------------


class StoppedError(Exception):
    """Somebody pulled the plug."""


def stop_after(number: int) -> Callable[[Epoch], None]:
    def report(epoch: Epoch) -> None:
        if epoch.number == number:
            raise StoppedError

    return report


TINY = VisionTransformerSize(
    resolution_px=8, patch_px=2, image_channels=1, classes=2, depth=1, heads=2, head_dim=8,
    mlp_ratio=1.0,
)  # fmt: skip


def tiny_data() -> Data:
    images = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = (images[:, 0, :4].mean((1, 2)) > 0).long()
    return Data(Split(images[:64], labels[:64]), Split(images[64:], labels[64:]))


@pytest.mark.parametrize("name", names())
def test_every_variant_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    spec = load(name)
    if reasons := spec.unsupported(TINY.shape()):
        pytest.skip("; ".join(reasons))
    short = replace(
        TASK,
        network=lambda order: VisionTransformer(order.spec, TINY),
        data=tiny_data,
        training=replace(SHORT, epochs=3, batch=16),
    )

    def run(checkpoint: Path | None, report: Callable[[Epoch], None] | None = None) -> Learned:
        order = Assignment(spec=spec, seed=3, device="cpu", checkpoint=checkpoint, report=report)
        return learn(short, order)

    try:
        through = run(None)
    except UnsupportedShape as refusal:
        pytest.skip(str(refusal))
    with pytest.raises(StoppedError):
        run(tmp_path / "state.pt", stop_after(2))
    torch.rand(5)  # another process has drawn other numbers
    resumed = run(tmp_path / "state.pt")
    weights, again = through.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert resumed.result.accuracy == through.result.accuracy
    assert resumed.result.loss == through.result.loss
    assert resumed.result.training.losses == through.result.training.losses
    assert resumed.result.training.resumed_after == (1,)
    assert through.result.training.resumed_after == ()
    assert through.result.visit_s == through.result.training_time_s
    assert 0 < resumed.result.visit_s < resumed.result.training_time_s, "one epoch was of before"


def kept(folder: Path, **changes: str) -> Kept:
    return Kept(folder / "state.pt", {"recipe": "one", "data": "some", **changes})


def trained(keep: Kept, report: Callable[[Epoch], None] | None = None) -> Trained:
    return train(classifier(0), problem(), SHORT, 0, kept=keep, report=report)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        trained(kept(tmp_path), stop_after(2))
    with pytest.raises(CheckpointError, match="recipe was one, is two; delete it"):
        trained(kept(tmp_path, recipe="two"))
    assert trained(kept(tmp_path)).curves.resumed_after == [1]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read .*delete it"):
        trained(kept(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_torn_checkpoint_is_named_and_never_gone_on_from(share: float, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        trained(kept(tmp_path), stop_after(3))
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read .*delete it"):
        trained(kept(tmp_path))


def test_a_checkpoint_with_a_flipped_bit_is_refused_or_the_same(tmp_path: Path) -> None:
    """Wherever the bit is: no training goes on from numbers that nobody has computed."""
    with pytest.raises(StoppedError):
        trained(kept(tmp_path), stop_after(3))
    whole = (tmp_path / "state.pt").read_bytes()
    through = train(classifier(0), problem(), SHORT, 0).curves.losses
    draws = random.Random(0)
    refused = 0
    for _ in range(40):
        torn = bytearray(whole)
        torn[draws.randrange(len(torn))] ^= 1 << draws.randrange(8)
        (tmp_path / "state.pt").write_bytes(torn)
        try:
            found = trained(kept(tmp_path)).curves.losses
        except CheckpointError:
            refused += 1
            continue
        assert found == through
    assert refused > 5


@pytest.mark.slow
def test_a_killed_process_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    """SIGKILL at random moments, until it is done: the same numbers as without."""
    program = (
        "import sys, json; from pathlib import Path; from bench.learning import learn;"
        "from bench.task import Assignment; from dataclasses import replace;"
        "from bench.tasks.digits import TASK, RECIPE; from attention_impls import load;"
        "import torch; torch.set_num_threads(1);"
        "short = replace(TASK, training=replace(RECIPE, epochs=4));"
        "folder = sys.argv[1];"
        "order = Assignment(spec=load('performer'), seed=1, device='cpu',"
        " checkpoint=Path(folder) / 'state.pt', report=lambda e: print(e.number, flush=True));"
        "found = learn(short, order).result;"
        "print(json.dumps([found.accuracy, found.loss, found.training.losses,"
        " list(found.training.resumed_after)]))"
    )

    def begun(folder: Path) -> "subprocess.Popen[str]":
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, cwd=ROOT,
        )  # fmt: skip

    def last(running: "subprocess.Popen[str]") -> list[Any]:
        out, _ = running.communicate(timeout=120)
        return json.loads(out.splitlines()[-1])

    through = last(begun(tmp_path / "through"))
    draws = random.Random(time.time_ns())
    for after in (1, 3):
        running = begun(tmp_path / "killed")
        assert running.stdout is not None
        while running.stdout.readline().strip() != str(after):
            assert running.poll() is None
        # while the state is written, or in the middle of the epoch after it
        time.sleep(draws.random() * 0.3)
        running.kill()
        running.wait()
        running.stdout.close()
    resumed = last(begun(tmp_path / "killed"))
    assert resumed[:3] == through[:3]
    assert through[3] == []
    assert resumed[3]


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = trained(kept(tmp_path))
    second = trained(kept(tmp_path), stop_after(1))
    assert second.curves == first.curves


# Data ---------------------------------------------------------------------------------------------


def test_positions_that_do_not_count_are_not_trained_and_not_counted() -> None:
    ids = torch.randint(0, 5, (64, 6), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, IGNORED)
    labels[:, 2] = ids[:, 2]
    split = Split(ids, labels)
    assert split.counted == 64

    class ByToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.table[x]

    model = ByToken()
    untrained = scores(model, split, batch=16)
    assert untrained.loss == pytest.approx(torch.log(torch.tensor(5.0)).item(), rel=1e-6)
    curves = train(model, split, replace(SHORT, epochs=20, batch=16), 0).curves
    assert scores(model, split, batch=16).accuracy == 1.0
    assert curves.accuracies[-1] == 1.0


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="256 examples, fewer than one batch: 257"):
        train(classifier(0), problem(), replace(SHORT, batch=257), 0)


def test_a_changed_pixel_or_label_changes_the_digest() -> None:
    before = tiny_data().sha256
    assert tiny_data().sha256 == before
    for part in ("inputs", "labels"):
        data = tiny_data()
        getattr(data.test, part).view(-1)[0] += 1
        assert data.sha256 != before


def test_crops_and_mirrors_are_of_the_images_and_differ_by_draw() -> None:
    images = torch.arange(1, 1 + 4 * 8 * 8).reshape(4, 1, 8, 8).to(torch.int16)
    first, second = (crop_and_flip(images, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert not torch.equal(first, second)
    for number, image in enumerate(first):
        inside = image[image > 0]
        assert set(inside.tolist()) <= set(images[number].flatten().tolist())
        assert len(inside) >= 7 * 7


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [rate_at(step, 100, SHORT) for step in range(100)]
    assert max(rates) == pytest.approx(SHORT.learning_rate)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[-1] < 0.01 * SHORT.learning_rate


# The digits ---------------------------------------------------------------------------------------


def test_the_digits_are_the_ones_the_task_is_defined_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits.read()
    assert len(data.train.inputs) == 1437
    assert len(data.test.inputs) == 360
    assert float(data.train.inputs.max()) == 1.0
    monkeypatch.setattr(digits, "SHA256", "0" * 64)
    with pytest.raises(digits.WrongDataError, match="sha256"):
        digits.read()


def test_the_digits_task_is_far_above_chance_and_bitwise_repeatable() -> None:
    short = replace(TASK, training=replace(RECIPE, epochs=4))
    order = Assignment(spec=load("softmax"), seed=0, device="cpu")
    results = [learn(short, order).result for _ in range(2)]
    assert results[0].accuracy == results[1].accuracy
    assert results[0].loss == results[1].loss
    assert results[0].accuracy > 3 * TASK.chance


# Recipe digests -----------------------------------------------------------------------------------


def test_every_changed_number_of_a_recipe_changes_its_digest() -> None:
    before = TASK.recipe_sha256
    assert replace(TASK, help="other words").recipe_sha256 == before

    def changed(numbers: Any) -> Iterator[Any]:
        for field in numbers.__dataclass_fields__:
            value = getattr(numbers, field)
            other = f"{value}x" if isinstance(value, str) else value + 1
            yield replace(numbers, **{field: other})

    for part, numbers in TASK.recipe.items():
        for other in changed(numbers):
            recipe = {**TASK.recipe, part: other}
            assert replace(TASK, recipe=recipe).recipe_sha256 != before
    for other in changed(TASK.training):
        assert replace(TASK, training=other).recipe_sha256 != before
    assert replace(TASK, revision=TASK.revision + 1).recipe_sha256 != before
