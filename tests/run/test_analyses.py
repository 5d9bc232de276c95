"""Analyses: the mathematics on matrices that are known, whole runs on tiny networks, reports."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from attention_impls import load
from attention_impls.parts.newton import newton_inverse
from attention_impls.registry import UnknownName
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.vit import VisionTransformer
from bench import altered, landmark_matrices, masking
from bench import analysis as analyses
from bench.analyses import (
    ablations,
    attention_maps,
    fidelity,
    injectivity,
    locality,
    rank,
    sharpening,
    soft_inverse,
    soft_landmarks,
)
from bench.analysis import Findings, Look, Study, analysis, analysis_names
from bench.attention_matrix import (
    Given,
    NotLinearError,
    matrix,
    seen,
    shared_matrix,
    without_local_branch,
)
from bench.dataset import Data, Split
from bench.mechanism import Mechanism, by_mechanism, mechanisms
from bench.model import to_json
from bench.recipe import Recipe
from bench.report import (
    AnalysisReport,
    Curves,
    Line,
    Picture,
    Quantity,
    read_reports,
    write_report,
)
from bench.tasks.digits import SIZE, TASK
from bench.training import DivergedError

ROOT = Path(__file__).parents[2]
GRID = Grid(4, 4)
SHAPE = AttentionShape(batch=1, grid=GRID, heads=2, head_dim=8)


def given(variant: str, grid: Grid = GRID, mix: nn.Module | None = None) -> Given:
    torch.manual_seed(0)
    layer = load(variant).build(replace(SHAPE, grid=grid)).double().eval()
    x = torch.randn(1, grid.tokens, 16, dtype=torch.float64)
    return Given(mix or layer.mix, *(t.detach() for t in layer.project(x)), x, grid)


# The matrix ---------------------------------------------------------------------------------------


def test_the_matrix_of_softmax_is_the_softmax_of_the_scores() -> None:
    one = given("softmax")
    wanted = (one.q[0] @ one.k[0].mT / 8**0.5).softmax(-1)
    torch.testing.assert_close(matrix(one), wanted)


@pytest.mark.parametrize(
    "variant", ["softmax", "linear_relu", "linear_elu", "inline", "focused_linear", "soft"]
)
def test_the_matrix_times_the_values_is_the_answer(variant: str) -> None:
    """For a channel that the extraction did not use, without the local branch."""
    one = given(variant)
    bare = without_local_branch(variant, load(variant).options, SHAPE, one.mix)
    plain = replace(one, mix=bare)
    weights = matrix(plain, channel=0)
    answer = plain.answer(one.q, one.k, one.v, one.x)[0]
    torch.testing.assert_close(weights @ one.v[0], answer, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("variant", ["softmax", "linear_relu", "inline", "focused_linear"])
def test_all_channels_at_once_give_the_same_matrix(variant: str) -> None:
    one = given(variant, Grid(3, 6))
    shape = replace(SHAPE, grid=one.grid)
    mix = without_local_branch(variant, load(variant).options, shape, one.mix)
    plain = replace(one, mix=mix)
    torch.testing.assert_close(shared_matrix(plain), matrix(plain))


def test_channels_that_differ_are_refused_at_once() -> None:
    """A local branch has another kernel in each channel."""
    with pytest.raises(NotLinearError, match="channels of a head differ"):
        shared_matrix(given("inline"))


def test_a_mix_that_is_not_linear_is_refused() -> None:
    class Squares(nn.Module):
        def forward(self, q, k, v, x, grid):
            return v**2

    with pytest.raises(NotLinearError, match="Squares is not linear"):
        matrix(given("softmax", mix=Squares()))


def test_a_local_branch_is_seen_and_can_be_left_out() -> None:
    one = given("inline")
    bare = without_local_branch("inline", load("inline").options, SHAPE, one.mix)
    with_branch, without = matrix(one), matrix(replace(one, mix=bare))
    difference = (with_branch - without).abs() > 1e-12
    near = masking.neighbourhood(GRID, 3)
    assert difference.any()
    assert not difference[:, ~near].any()


# Injectivity --------------------------------------------------------------------------------------


def test_the_toy_confuses_linear_attention_and_nothing_else() -> None:
    found = {v: injectivity.equal_pairs(injectivity.toy(v))
             for v in ("softmax", "inline", "linear_relu")}  # fmt: skip
    assert found == {"softmax": 0, "inline": 0, "linear_relu": 6}


def test_only_different_queries_with_equal_rows_are_confused() -> None:
    rows = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    apart = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    same = torch.tensor([[1.0, 0.0], [1.01, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert injectivity.confused(rows, apart).tolist() == [1] * len(injectivity.TOLERANCES)
    assert injectivity.confused(rows, same).tolist() == [0] * len(injectivity.TOLERANCES)
    near = rows.clone()
    near[1, 0] += 5e-3
    counts = injectivity.confused(near, apart)
    assert [int(c) for c, t in zip(counts, injectivity.TOLERANCES, strict=True) if t > 5e-3] == [
        1, 1, 1,
    ]  # fmt: skip
    assert int(counts[-1]) == 0


# Locality -----------------------------------------------------------------------------------------


def test_neighbourhoods_are_cut_at_the_border() -> None:
    near = masking.neighbourhood(GRID, 3)
    assert near.sum(1).tolist() == [4, 6, 6, 4, 6, 9, 9, 6, 6, 9, 9, 6, 4, 6, 6, 4]
    assert torch.equal(near, near.T)


def test_random_tokens_are_as_many_and_others() -> None:
    near = masking.neighbourhood(GRID, 3)
    drawn = masking.random_tokens(GRID, near.sum(1))
    assert torch.equal(drawn.sum(1), near.sum(1))
    assert not torch.equal(drawn, near)


@pytest.mark.parametrize("variant", ["softmax", "linear_relu", "inline"])
def test_masked_weights_are_those_of_the_mechanism_on_fewer_keys(variant: str) -> None:
    """Removing the same keys from every query is the mechanism without these keys."""
    one = given(variant)
    mix = without_local_branch(variant, load(variant).options, SHAPE, one.mix)
    kept = torch.tensor([0, 2, 3, 5, 9, 14])
    removed = torch.ones(16, 16, dtype=torch.bool)
    removed[:, kept] = False
    weights = matrix(replace(one, mix=mix))
    found = masking.masked(weights, removed, load(variant).traits)
    q, k, v = (t[:, :, kept] for t in (one.q, one.k, one.v))
    fewer = mix(q, k, v, one.x[:, kept], Grid(1, 6))[0]
    answer = (found @ one.v[0])[:, kept]
    torch.testing.assert_close(answer, fewer, rtol=1e-5, atol=1e-6)


# Rank ---------------------------------------------------------------------------------------------


def test_ranks_of_known_matrices() -> None:
    torch.manual_seed(0)
    low = torch.randn(16, 3, dtype=torch.float64) @ torch.randn(3, 16, dtype=torch.float64)
    assert int(rank.numerical_rank(low[None])) == 3
    assert int(rank.numerical_rank(torch.eye(16, dtype=torch.float64)[None])) == 16
    assert float(rank.effective_rank(torch.eye(16, dtype=torch.float64)[None])) == pytest.approx(16)
    assert 1 < float(rank.effective_rank(low[None])) < 3
    nothing = torch.zeros(1, 4, 4, dtype=torch.float64)
    assert int(rank.numerical_rank(nothing)) == 0
    assert math.isfinite(float(rank.effective_rank(nothing)))


@pytest.mark.parametrize(("variant", "most"), [("linear_relu", 8), ("inline", 9), ("softmax", 16)])
def test_the_rank_of_a_mechanism_is_bounded_by_its_channels(variant: str, most: int) -> None:
    one = given(variant)
    mix = without_local_branch(variant, load(variant).options, SHAPE, one.mix)
    found = rank.numerical_rank(matrix(replace(one, mix=mix)))
    assert found.tolist() == [most, most]


def test_fewer_singular_values_are_above_a_larger_tolerance() -> None:
    values = torch.tensor([1.0, 1e-2, 1e-5, 1e-11], dtype=torch.float64)
    counts = [int(rank.numerical_rank(values.diag()[None], t)) for t in rank.TOLERANCES]
    assert counts == [4, 3, 3, 2, 2, 1, 1]


# The focused map ----------------------------------------------------------------------------------


def test_powers_bring_pairs_with_one_largest_channel_together_and_part_others() -> None:
    x = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[3.0, 1.0, 2.0], [2.0, 3.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    of = torch.stack([sharpening.cosines(x, y, power) for power in sharpening.POWERS])
    torch.testing.assert_close(of[0], torch.cosine_similarity(x, y))
    assert float(of[-1, 0]) > 0.999 > float(of[0, 0])
    assert float(of[-1, 1]) < 0.01 < float(of[0, 1])
    assert of[:, 2].tolist() == [0.0] * len(sharpening.POWERS)
    huge = sharpening.cosines(x[:1] * 1e30, y[:1] * 1e30, 32)
    torch.testing.assert_close(huge, of[-1, :1])


def test_the_features_are_those_of_the_mechanism() -> None:
    """Raised to its power and scaled to their norm they give its matrix."""
    one = given("focused_linear")
    q, k = sharpening._features(one)
    tokens = GRID.tokens
    q, k = q[::tokens], k[:tokens]
    power = one.mix.power
    sharp_q, sharp_k = (
        (x**power * (x.norm(dim=1) / (x**power).norm(dim=1))[:, None]).unflatten(1, (2, -1))
        for x in (q, k)
    )
    scores = torch.einsum("nhd,mhd->hnm", sharp_q, sharp_k)
    wanted = scores / (scores.sum(-1, keepdim=True) + tokens * 1e-6)
    bare = without_local_branch("focused_linear", load("focused_linear").options, SHAPE, one.mix)
    torch.testing.assert_close(matrix(replace(one, mix=bare)), wanted, rtol=1e-6, atol=1e-9)


# SOFT ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["soft", "soft_norm"])
def test_the_start_is_that_of_the_variant(variant: str) -> None:
    """One iterate from our start is what the variant's own inverse returns after one step."""
    queries = landmark_matrices.smooth_field(Grid(6, 6))
    marks = landmark_matrices.landmarks(queries, Grid(6, 6), 9, "average_pool")
    between = landmark_matrices.gaussian_affinities(marks, marks, 1.0)
    spec = load(variant)
    options = replace(spec.options, newton_steps=1)
    layer = spec.build(AttentionShape(1, Grid(6, 6), 4, 32), options).double()
    ridge = options.ridge
    start = landmark_matrices.started(variant, between, ridge)
    found = newton_inverse(landmark_matrices.ridged(between, ridge), start, 1)
    if variant == "soft_norm":
        scale = between.sum(-1).rsqrt()
        found = scale[:, :, None] * found * scale[:, None, :]
    torch.testing.assert_close(found, layer.mix.inverse(between))


def test_residuals_are_those_of_the_iteration() -> None:
    a = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))[None]
    found = soft_inverse.residuals(a, a / 9)
    assert len(found) == soft_inverse.STEPS + 1
    assert found[0] == pytest.approx(landmark_matrices.residual(a, a / 9))
    later = landmark_matrices.residual(a, newton_inverse(a, a / 9, 3))
    assert found[3] == pytest.approx(later)
    assert found[-1] < 1e-12


def test_the_residual_of_an_inverse_is_none_and_of_nothing_is_one() -> None:
    a = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))[None]
    assert landmark_matrices.residual(a, a.inverse()) < 1e-12
    assert landmark_matrices.residual(a, torch.zeros_like(a)) == pytest.approx(1.0)


# Fidelity -----------------------------------------------------------------------------------------


def test_softmax_has_no_error_and_a_wrong_mix_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "SIDE", 6)
    perfect = fidelity.errors(fidelity.built("softmax", None, 0), 1.0, 0)
    assert perfect.output < 1e-12
    assert perfect.row_sum < 1e-12
    assert perfect.recall == 1.0

    class Mean(nn.Module):
        def forward(self, q, k, v, x, grid):
            return v.mean(2, keepdim=True).expand_as(v) * 1.1

    wrong = fidelity.errors(Mean(), 4.0, 0)
    assert wrong.output > 0.3
    assert wrong.row_sum == pytest.approx(0.1)
    assert wrong.recall < 0.9


def test_logits_have_the_temperature_as_their_deviation() -> None:
    q, k, _ = fidelity.inputs(2.0, 0)
    logits = q @ k.mT / q.shape[-1] ** 0.5
    assert float(logits.std()) == pytest.approx(2.0, rel=0.05)


# Ablations ----------------------------------------------------------------------------------------


def test_windows_are_attention_on_each_part_alone() -> None:
    torch.manual_seed(0)
    layer = load("softmax").build(replace(SHAPE, grid=Grid(2, 2)))
    inside = altered.Windowed(layer, 2)
    x = torch.randn(2, 16, 16)
    changed = x.clone()
    changed[:, 15] += 1
    before, after = inside(x, GRID), inside(changed, GRID)
    moved = (before != after).any(2).any(0)
    assert moved.nonzero().flatten().tolist() == [10, 11, 14, 15]
    part = x[:, [10, 11, 14, 15]]
    torch.testing.assert_close(before[:, [10, 11, 14, 15]], layer(part, Grid(2, 2)))
    assert altered.windows(Grid(8, 8)) == (4, 8)


# Whole runs ---------------------------------------------------------------------------------------

QUICK = Recipe(
    epochs=1, batch=32, learning_rate=3e-3, weight_decay=0.0, warmup=0.1, label_smoothing=0.0,
    clip_norm=1.0,
)  # fmt: skip


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of networks that are trained for one epoch on sixty-four digits."""

    def few() -> Data:
        data = TASK.data()
        return Data(
            Split(data.train.inputs[:64], data.train.labels[:64]),
            Split(data.test.inputs[:8], data.test.labels[:8]),
        )

    short = replace(TASK, data=few, training=QUICK)
    monkeypatch.setattr(analyses, "task", lambda _: short)
    monkeypatch.setattr(ablations, "task", lambda _: short)
    monkeypatch.setattr(fidelity, "SIDE", 6)
    monkeypatch.setattr(fidelity, "BUDGETS", (4, 8))
    monkeypatch.setattr(landmark_matrices, "FIT_STEPS", 2)
    monkeypatch.setattr(soft_landmarks, "SIDES", (9, 12))
    monkeypatch.setattr(soft_landmarks, "TRAINED_LANDMARKS", (9, 49))
    return Study(variants=(), note=lambda _: None)


@pytest.mark.parametrize("name", analysis_names())
def test_every_analysis_runs_and_its_numbers_can_be_written(
    name: str, study: Study, tmp_path: Path
) -> None:
    one = analysis(name)
    study.variants = one.variants
    found = one.run(study)
    assert isinstance(found, Findings)
    assert one.conclude(found.quantities).finding.endswith(".")
    assert found.quantities
    assert found.figures
    assert {q.variant for q in found.quantities} - {None} <= set(one.variants)
    path = write_report(tmp_path, report(name, found, tuple(study.networks)))
    (read,), refused = read_reports(tmp_path)
    assert refused == ()
    assert to_json(read) == to_json(report(name, found, tuple(study.networks)))
    assert path.name == f"{name}.json"
    if one.variants and "trained" in (one.claim + one.question + name):
        assert read.networks


def test_image_head_and_query_of_a_picture_can_be_chosen(study: Study) -> None:
    study.variants = ("softmax",)

    def pictures(**look: object) -> list[Picture]:
        study.look = Look(**look)
        return [f for f in attention_maps.run(study).figures if isinstance(f, Picture)]

    mean, head = pictures(), pictures(head=1)
    assert [p.marked for p in mean] == [None, (2, 2), (2, 2)]
    other = pictures(head=1, query=(0, 3), image=5)
    assert other[1].marked == (0, 3)
    assert len({mean[1].rows, head[1].rows, other[1].rows, pictures(head=0)[1].rows}) == 4
    assert mean[0].rows == head[0].rows != other[0].rows
    for wrong, words in (({"image": 8}, "image is 8, must be below 8"), ({"head": 2}, "head is 2"),
                         ({"query": (4, 0)}, "row of the query is 4"),
                         ({"query": (0, 9)}, "column of the query is 9")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            pictures(**wrong)


def report(name: str, found: Findings, networks: tuple = ()) -> AnalysisReport:
    return AnalysisReport(
        analysis=name, revision=1, created="2026-01-02T03:04:05Z", hardware_id="sample-cpu",
        commit=None, dirty=True, torch="2", wall_s=1.0, claim="", finding="Something.",
        agrees=None, networks=networks, quantities=found.quantities, figures=found.figures,
    )  # fmt: skip


def sample_findings() -> Findings:
    line = Line(variant=None, label="one", x=(1.0, 2.0), y=(0.5, 0.25))
    figure = Curves(kind="lines", title="t", x="x", y="y", lines=(line,))
    return Findings(quantities=(), figures=(figure,))


def test_networks_are_trained_once_and_read_again(study: Study, tmp_path: Path) -> None:
    study.folder = tmp_path
    first = study.trained("softmax", 0)
    assert study.trained("softmax", 0) is first
    assert len(study.networks) == 1
    told: list[str] = []
    again = Study(variants=(), folder=tmp_path, note=told.append).trained("softmax", 0)
    assert told == []
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
    assert again.result.accuracy == first.result.accuracy


def test_other_options_are_other_networks(study: Study) -> None:
    plain = study.trained("inline", 0)
    bare = study.trained("inline", 0, {"local_residual": False})
    assert plain.result.parameters > bare.result.parameters
    assert [n.options for n in study.networks] == ["", "local_residual=False"]


def test_looking_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(load("inline"), SIZE)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layers = seen(network, torch.randn(2, 1, 8, 8))
    assert len(layers) == SIZE.depth
    assert all(not block.attention._forward_pre_hooks for block in network.blocks)
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


# Conclusions --------------------------------------------------------------------------------------


def changed(name: str, change: Callable[[Quantity], float]) -> tuple[Quantity, ...]:
    """The committed numbers of an analysis, each after `change`."""
    return tuple(replace(q, value=change(q)) for q in COMMITTED[name].quantities)


COMMITTED = {one.analysis: one for one in read_reports(ROOT / "results")[0]}


@pytest.mark.parametrize("name", sorted(COMMITTED))
def test_committed_sentences_are_what_committed_numbers_say(name: str) -> None:
    one, report = analysis(name), COMMITTED[name]
    assert (one.revision, one.claim) == (report.revision, report.claim)
    said = one.conclude(report.quantities)
    assert (said.finding, said.agrees) == (report.finding, report.agrees)


@pytest.mark.parametrize("name", sorted(COMMITTED))
def test_other_numbers_are_another_sentence(name: str) -> None:
    numbers = changed(name, lambda q: q.value * 0.5)
    assert analysis(name).conclude(numbers).finding != COMMITTED[name].finding


def is_of(quantity: Quantity, name: str, *variants: str) -> bool:
    return quantity.name == name and (quantity.variant in variants or not variants)


LINEAR = ("linear_relu", "linear_elu", "focused_linear")


def injectivity_if(share: float, equal: float, moved: float = 0.0) -> Callable[[Quantity], float]:
    def of(q: Quantity) -> float:
        if is_of(q, injectivity.SHARE):
            return share if q.variant in LINEAR else 0.1
        if is_of(q, injectivity.CHANGE, "linear_relu"):
            return moved
        return equal if is_of(q, injectivity.EQUAL, "linear_relu") else q.value

    return of


def locality_if(local: float, random: float, mass: float) -> Callable[[Quantity], float]:
    """Accuracies without a mask are 0.9."""

    def of(q: Quantity) -> float:
        values = {locality.MASKED["local"]: local, locality.MASKED["random"]: random,
                  locality.SIZES: mass}  # fmt: skip
        return 0.9 if "0.0 a query" in q.setting else values.get(q.name, q.value)

    return of


def rank_if(
    tokens: float, bare: float, whole: float, coarse: float | None = None
) -> Callable[[Quantity], float]:
    """Ranks of linear mechanisms without and with a branch; with it another at tolerance 0.1."""

    def of(q: Quantity) -> float:
        values = {"tokens": tokens, "channels of a head": 32.0}
        if q.variant in (*LINEAR, "inline"):
            for name in (rank.RANK, rank.LARGEST):
                values |= {name: bare, name + rank.LOCAL: whole}
                if coarse is not None and "tolerance 0.1" in q.setting:
                    values[name + rank.LOCAL] = coarse
        return values.get(q.name, q.value)

    return of


def sharpening_if(same: float, different: float, spread: float) -> Callable[[Quantity], float]:
    """Cosines at the published power; all are 0.5 at power 1. Random vectors say the opposite."""

    def of(q: Quantity) -> float:
        published = f"power {sharpening.PUBLISHED}," in q.setting
        if q.name not in sharpening.COSINE.values() or not published:
            return 0.5
        if q.setting.startswith(sharpening.RANDOM):
            return 0.1 if q.name == sharpening.COSINE["same"] else 0.9
        wobble = spread * (-1) ** int(q.setting[-1])
        return (same if q.name == sharpening.COSINE["same"] else different) + wobble

    return of


def soft_if(fields: float, trained: float) -> Callable[[Quantity], float]:
    """Steps of SOFT to every residual."""

    def of(q: Quantity) -> float:
        if not is_of(q, soft_inverse.NEEDED, "soft"):
            return q.value
        return trained if q.setting.startswith(soft_inverse.TRAINED) else fields

    return of


def landmarks_if(others: float, spread: float) -> Callable[[Quantity], float]:
    """Accuracies of all cells but the default, which reaches 0.8, and their alternation."""

    def of(q: Quantity) -> float:
        if not is_of(q, soft_landmarks.ACCURACY):
            return q.value
        if q.setting.startswith(f"{soft_landmarks.DEFAULT} landmarks, conv"):
            return 0.8
        return others + spread * (-1) ** int(q.setting[-1])

    return of


def fidelity_if(first: float, last: float, spread: float = 0.0) -> Callable[[Quantity], float]:
    """Errors of every mechanism at the smallest and at every larger budget."""

    def of(q: Quantity) -> float:
        if not is_of(q, fidelity.OUTPUT):
            return q.value
        if q.setting.startswith("budget"):
            smallest = q.setting.startswith(f"budget {fidelity.BUDGETS[0]},")
            return (first if smallest else last) + spread * smallest * (-1) ** int(q.setting[-1])
        return 0.1 if q.setting.startswith("temperature 0.25") else 0.5

    return of


def ablation_if(injective: float, spread: float) -> Callable[[Quantity], float]:
    """Accuracies of the injective cells and of all others, and how they alternate over seeds."""

    def of(q: Quantity) -> float:
        ahead = injective - 0.5 if ablations.INJECTIVE in q.setting else 0.0
        weight = float(ablations.INJECTIVE in q.setting)
        if ", window " in q.setting:
            side = int(q.setting.partition("window ")[2].partition(",")[0])
            ahead, weight = (injective - 0.5) * side / 8, side / 8
        local = ablations.LABELS[True] in q.setting
        wobble = spread * (-1) ** int(q.setting[-1]) * (weight + local)
        return 0.5 + ahead + 0.2 * local + wobble

    return of


@pytest.mark.parametrize(
    ("name", "change", "agrees"),
    [
        ("injectivity", injectivity_if(0.5, 6), True),
        ("injectivity", injectivity_if(0.01, 6), False),
        ("injectivity", injectivity_if(0.5, 0), False),
        ("injectivity", injectivity_if(0.5, 6, 0.1), False),
        ("injectivity", injectivity_if(0.1, 6), None),
        ("injectivity", injectivity_if(0.0999, 6), None),
        ("locality", locality_if(0.2, 0.8, 0.9), True),
        ("locality", locality_if(0.8, 0.2, 0.9), False),
        ("locality", locality_if(0.2, 0.8, 0.1), False),
        ("locality", locality_if(0.50, 0.51, 0.9), None),
        ("rank", rank_if(49, 32, 49), True),
        ("rank", rank_if(49, 40, 49), False),
        ("rank", rank_if(49, 32, 32), False),
        ("rank", rank_if(49, 32, 49, 32), None),
        ("rank", rank_if(16, 16, 16), None),
        ("sharpening", sharpening_if(0.6, 0.1, 0.0), True),
        ("sharpening", sharpening_if(0.4, 0.1, 0.0), False),
        ("sharpening", sharpening_if(0.6, 0.9, 0.0), False),
        ("sharpening", sharpening_if(0.55, 0.1, 0.2), None),
        ("soft_inverse", soft_if(20, 20), True),
        ("soft_inverse", soft_if(20, 21), False),
        ("soft_inverse", soft_if(21, 20), False),
        ("soft_inverse", lambda q: 21 if "residual 0.001," in q.setting else 9, None),
        ("soft_landmarks", landmarks_if(0.81, 0.001), True),
        ("soft_landmarks", landmarks_if(0.75, 0.001), False),
        ("soft_landmarks", landmarks_if(0.8, 0.05), None),
        ("fidelity", fidelity_if(0.9, 0.3), True),
        ("fidelity", fidelity_if(0.3, 0.9), False),
        ("fidelity", fidelity_if(0.31, 0.3, 0.2), None),
        ("ablations", ablation_if(0.6, 0.001), True),
        ("ablations", ablation_if(0.4, 0.001), False),
        ("ablations", ablation_if(0.6, 0.2), None),
    ],
)
def test_the_verdict_follows_the_numbers(
    name: str, change: Callable[[Quantity], float], agrees: bool | None
) -> None:
    assert analysis(name).conclude(changed(name, change)).agrees is agrees


def test_one_no_is_a_no_and_nothing_is_no_verdict() -> None:
    assert analyses.together([True, None, False]) is False
    assert analyses.together([True, None]) is None
    assert analyses.together([True, True]) is True
    assert analyses.together([]) is None


def cells(**of: list[float | None]) -> tuple[Quantity, ...]:
    """Two cells of the table of feature maps: accuracies, or None where a training diverged."""
    labels = {"injective": ablations.INJECTIVE, "linear": ablations.NOT_INJECTIVE}
    return tuple(
        Quantity(
            variant="inline" if which == "injective" else "linear_relu",
            name=ablations.DIVERGED if value is None else ablations.ACCURACY,
            setting=f"{labels[which]}, {name}, seed {seed}", value=3.0 if value is None else value,
        )
        for which, values in of.items()
        for name in ablations.FEATURE_MAPS
        for seed, value in enumerate(values)
    ) + tuple(
        Quantity(
            variant="inline", name=ablations.ACCURACY, value=0.1 + 0.3 * local + 0.05 * side,
            setting=f"{ablations.LABELS[local]}, window {side}, seed {seed}",
        )
        for local in (True, False)
        for side in (4, 8)
        for seed in range(3)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("injective", "linear", "agrees"),
    [
        ([0.9, 0.9, 0.91], [0.8, 0.8, 0.81], True),
        ([0.9, 0.9, 0.91], [None, None, None], True),
        ([0.9, 0.9, 0.91], [0.8, None, 0.8], None),
        ([None, None, None], [0.8, 0.8, 0.81], False),
        ([None, None, None], [None, None, None], None),
        ([0.7, 0.7, 0.71], [0.8, 0.8, 0.81], False),
        ([0.9], [0.8], None),
    ],
)
def test_a_training_that_diverges_is_an_outcome_of_its_cell(
    injective: list[float | None], linear: list[float | None], agrees: bool | None
) -> None:
    said = ablations.conclude(cells(injective=injective, linear=linear))
    assert said.agrees is agrees
    assert ("diverged" in said.finding) == (None in injective + linear)


def test_linear_attention_takes_every_feature_map() -> None:
    """With relu it is the tree's own variant; with the identity its rows can sum to nothing."""
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    answers = {}
    others = {name: altered.linear_with(name) for name in ablations.FEATURE_MAPS}
    for name, spec in {"own": load("linear_relu"), **others}.items():
        torch.manual_seed(0)
        answers[name] = spec.build(SHAPE)(x, GRID)
    torch.testing.assert_close(answers["relu"], answers["own"])
    for name in ("identity", "leaky_relu", "exp"):
        assert not torch.equal(answers[name], answers["own"])


def test_a_diverged_cell_is_kept_and_the_others_go_on(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.seeds = (0, 1)
    quantities: list[Quantity] = []

    def trained(seed: int) -> float:
        if seed == 0:
            raise DivergedError("loss", 7, 44, 1, 1)
        return 0.5

    ends = ablations._kept(study, "inline", trained, "a cell", quantities)
    assert ends == (0.5, 0.5, 0.5)
    assert [(q.name, q.setting, q.value) for q in quantities] == [
        (ablations.DIVERGED, "a cell, seed 0", 7.0), (ablations.ACCURACY, "a cell, seed 1", 0.5),
    ]  # fmt: skip


def test_differences_of_seeds_are_sure_only_beyond_their_interval() -> None:
    sure = analyses.surely_positive
    assert sure([0.1, 0.11, 0.12]) is True
    assert sure([-0.1, -0.11, -0.12]) is False
    assert sure([0.1, -0.1, 0.2]) is None
    assert sure([0.1, 0.1]) is None
    assert sure([0.0, 0.0, 0.0]) is None
    mean, half = analyses.mean_gap([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert mean == pytest.approx(2.0)
    assert half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)


def test_what_has_a_local_branch_is_also_looked_at_without_one() -> None:
    found = list(mechanisms(("softmax", "inline", "focused_linear")))
    assert [(m.variant, m.has_branch) for m in found] == [
        ("softmax", False), ("inline", True), ("inline", False), ("focused_linear", True),
        ("focused_linear", False),
    ]  # fmt: skip
    assert dict(found[2].changed) == {"local_residual": False}
    written = [Quantity(variant=m.variant, name="n", setting=m.setting("layer 1, seed 3"), value=n)
               for n, m in enumerate(found)]  # fmt: skip
    assert by_mechanism(written, "n") == {
        m: {"layer 1": {3: float(n)}} for n, m in enumerate(found)
    }
    wrong = replace(written[2], variant="softmax")
    with pytest.raises(ValueError, match="softmax has no local branch"):
        by_mechanism([wrong], "n")


def test_confusion_does_not_hide_behind_a_local_branch(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention that gives all queries one row confuses pairs, whatever is convolved beside it."""
    from attention_impls.variants import inline

    learned = study.trained("inline", 0)
    few = replace(learned, data=replace(learned.data, test=Split(
        learned.data.test.inputs[:2], learned.data.test.labels[:2])))  # fmt: skip
    study._learned = dict.fromkeys(study._learned, few)
    inline_as_it_is = Mechanism("inline")
    assert int(injectivity._trained(study, inline_as_it_is, 0)[0][:, -1].max()) == 0
    monkeypatch.setattr(
        inline, "centred_product", lambda q, k, v: v.mean(2, keepdim=True).expand_as(v).clone()
    )
    counts, _, pairs = injectivity._trained(study, inline_as_it_is, 0)
    assert int(counts[:, -1].min()) > 0.5 * pairs


# Reports ------------------------------------------------------------------------------------------


def test_a_moved_or_uneven_report_is_refused(tmp_path: Path) -> None:
    path = write_report(tmp_path, report("rank", sample_findings()))
    path.rename(path.with_name("other.json"))
    ((name, reason),) = read_reports(tmp_path)[1]
    assert name == "analyses/sample-cpu/other.json"
    assert "sample-cpu/rank.json" in reason
    path.with_name("other.json").unlink()
    uneven = Line(variant=None, label="one", x=(1.0, 2.0), y=(0.5,))
    (figure,) = sample_findings().figures
    bad = replace(sample_findings(), figures=(replace(figure, lines=(uneven,)),))
    write_report(tmp_path, report("rank", bad))
    assert "sizes differ" in read_reports(tmp_path)[1][0][1]


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValidationError):
        Line(variant=None, label="one", x=(1.0,), y=(math.nan,))


def test_an_unknown_analysis_is_named() -> None:
    with pytest.raises(UnknownName, match="rank"):
        analysis("rnak")
