"""How near are the approximations to exact softmax attention, for the same q, k and v?

No training. Queries and keys are normal numbers times the square root of a temperature, so that the
logits have that standard deviation: small ones make nearly uniform weights, large ones spikes.
Against exact softmax in float64: relative error of the output, error of the row sums, and recall of
the ten largest weights of each row, over the budget (landmarks, features, rank, queries that
attend) at temperature 1, and over the temperature at the default budget.

Every mechanism takes part whose paper offers it as softmax attention made cheaper and which can say
something untrained; how each is set is in APPROXIMATIONS. Random feature attention scales queries
and keys to length 1, so it is near only where their lengths hardly matter. Left out: those whose
maps must be learned first (Hedgehog, Linformer, EVA), whose keys are the queries (Reformer), and
sparse patterns, which the papers train with.

After Choromanski et al., "Rethinking Attention with Performers", ICLR 2021,
https://arxiv.org/abs/2009.14794, figure 4, and Zeng et al., "Multi Resolution Analysis for
Approximate Self-Attention", ICML 2022, https://arxiv.org/abs/2207.10284 (error over entropy).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_setting,
    quantity,
    title,
    together,
)
from bench.attention_matrix import Given, NotLinearError, shared_matrix
from bench.report import Curves, Line, Quantity

SIDE = 16
HEADS, HEAD_DIM = 4, 32
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
BUDGETS = (8, 16, 32, 64, 128)
BUDGET_OPTIONS = ("landmarks", "features", "projected_tokens", "rank", "samples", "clusters")
"""Names under which variants call their budget."""
TOP = 10
EXACT = 1e-9
"""An error below this is rounding."""
SEEDS = (0, 1, 2)

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approximation:
    """How a mechanism is set to be compared with softmax attention."""

    options: Options = field(default_factory=dict[str, Any])
    """Instead of the defaults."""
    budget: Callable[[int], Options] | None = None
    """Options with a given budget; None: it has none."""


def _named(option: str) -> Callable[[int], Options]:
    return lambda budget: {option: budget}


def _attending(queries: int) -> Options:
    """ProbSparse lets factor * ceil(ln N) queries attend; as near below `queries` as it can."""
    return {"factor": max(1, queries // math.ceil(math.log(SIDE * SIDE)))}


APPROXIMATIONS: Mapping[str, Approximation] = {
    "softmax": Approximation(),
    "performer": Approximation(budget=_named("features")),
    "random_feature": Approximation(budget=_named("projections")),
    # the maps of the averages are learned: without them, averages alone
    "lara": Approximation(options={"maps": "none"}, budget=_named("landmarks")),
    "nystromformer": Approximation(budget=_named("landmarks")),
    "probsparse": Approximation(budget=_attending),
    # all channels of q and k, or it would see another product
    "taylor": Approximation(options={"feature_dim": HEAD_DIM}),
    "vitality": Approximation(),
}


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one mechanism against exact softmax."""

    output: float
    """Frobenius norm of the difference / norm of the exact output."""
    row_sum: float
    """Mean of |sum of a row - 1|."""
    recall: float
    """Share of the ten largest weights of a row that are among its ten largest."""


def approximation(variant: str) -> Approximation | None:
    """Return how `variant` is compared; None if it is not meant to approximate softmax."""
    if variant in APPROXIMATIONS:
        return APPROXIMATIONS[variant]
    spec = load(variant)
    if not spec.traits.approximates_softmax:
        return None
    names = {one.name for one in fields(spec.options)}
    named = next((name for name in BUDGET_OPTIONS if name in names), None)
    return Approximation(budget=None if named is None else _named(named))


def inputs(temperature: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v [1, heads, tokens, head_dim] in float64."""
    draws = torch.Generator().manual_seed(seed)
    size = (3, 1, HEADS, SIDE * SIDE, HEAD_DIM)
    q, k, v = torch.randn(size, generator=draws, dtype=torch.float64)
    return q * temperature**0.5, k * temperature**0.5, v


def exact(q: Tensor, k: Tensor) -> Tensor:
    """Return the softmax weights [heads, tokens, tokens]."""
    return (q[0] @ k[0].mT / q.shape[-1] ** 0.5).softmax(-1)


@torch.no_grad()
def errors(mix: nn.Module, temperature: float, seed: int) -> Errors:
    """Compare one mix with exact softmax.

    Raises:
        NotLinearError: the mix has no attention matrix.
    """
    q, k, v = inputs(temperature, seed)
    x = torch.zeros(1, q.shape[2], HEADS * HEAD_DIM, dtype=torch.float64)
    weights = shared_matrix(Given(mix, q, k, v, x, Grid(SIDE, SIDE)))
    wanted = exact(q, k)
    output, truth = weights @ v[0], wanted @ v[0]
    theirs, mine = wanted.topk(TOP).indices, weights.topk(TOP).indices
    shared = (theirs[..., :, None] == mine[..., None, :]).any(-1)
    return Errors(
        output=float((output - truth).norm() / truth.norm()),
        row_sum=float((weights.sum(-1) - 1).abs().mean()),
        recall=float(shared.double().mean()),
    )


def built(variant: str, budget: int | None, seed: int) -> nn.Module:
    """Return the mix of `variant` in float64, with `budget` in place of its default.

    Raises:
        UnsupportedShape: the variant cannot have this budget on this grid.
    """
    spec, chosen = load(variant), approximation(variant) or Approximation()
    options = replace(spec.options, **chosen.options)
    if budget is not None and chosen.budget is not None:
        options = replace(options, **chosen.budget(budget))
    if hasattr(options, "seed"):
        options = replace(options, seed=seed)
    shape = AttentionShape(batch=1, grid=Grid(SIDE, SIDE), heads=HEADS, head_dim=HEAD_DIM)
    torch.manual_seed(seed)
    layer = spec.build(shape, options).double().eval()
    return cast("nn.Module", layer.mix)


def run(study: Study) -> Findings:
    """Sweep temperature and budget."""
    quantities: list[Quantity] = []
    of_temperature: dict[str, list[Errors]] = {}
    of_budget: dict[str, list[Errors]] = {}
    for variant in study.variants:
        chosen = approximation(variant)
        if chosen is None:
            study.note(f"{variant} is not meant to approximate softmax: left out")
            continue
        warm = _sweep(variant, [(None, t) for t in TEMPERATURES], study)
        if not warm:
            continue
        of_temperature[variant] = warm
        for temperature, found in zip(TEMPERATURES, warm, strict=True):
            quantities += _quantities(variant, found, f"temperature {temperature:g}")
        budgeted = _sweep(variant, [(b, 1.0) for b in BUDGETS], study) if chosen.budget else []
        if budgeted:
            of_budget[variant] = budgeted
            for budget, found in zip(BUDGETS, budgeted, strict=True):
                quantities += _quantities(variant, found, f"budget {budget}")
    if not of_temperature:
        raise ValueError(
            f"none of {', '.join(study.variants)} is meant to approximate softmax: choose others"
        )
    return Findings(
        quantities=tuple(quantities),
        figures=(
            *_figures(of_temperature, "temperature", TEMPERATURES, "standard deviation of logits"),
            *_figures(of_budget, "budget", BUDGETS, "landmarks, features, rank, queries"),
        ),
    )


def _figures(
    found: Mapping[str, Sequence[Errors]], over: str, places: Sequence[float], x: str
) -> list[Curves]:
    """One figure for each of the three errors."""
    # rounding would take up most of a logarithmic axis
    approximate = {v: of for v, of in found.items() if max(e.output for e in of) > EXACT}
    asked: tuple[tuple[str, str, Callable[[Errors], float], bool], ...] = (
        ("Error", "relative error of the output", lambda e: e.output, True),
        ("Row sums", "mean |sum of a row - 1|", lambda e: e.row_sum, False),
        ("The ten largest weights", "share found again", lambda e: e.recall, False),
    )
    return [
        Curves(
            kind="lines", title=f"{name} over the {over}", x=x, y=y, log_x=True, log_y=log,
            lines=tuple(
                Line(variant=v, label=title(v), x=tuple(map(float, places)),
                     y=tuple(value(e) for e in of))
                for v, of in (approximate if log else found).items()
            ),
        )
        for name, y, value, log in asked
        if (approximate if log else found)
    ]  # fmt: skip


def _sweep(variant: str, settings: list[tuple[int | None, float]], study: Study) -> list[Errors]:
    """Return mean errors over seeds; nothing where the variant cannot be looked at."""
    found: list[Errors] = []
    for budget, temperature in settings:
        try:
            each = [errors(built(variant, budget, seed), temperature, seed) for seed in SEEDS]
        except (UnsupportedShape, NotLinearError, ValueError) as reason:
            study.note(f"{variant}, budget {budget}, temperature {temperature:g}: {reason}")
            return []
        found.append(
            Errors(
                output=sum(e.output for e in each) / len(each),
                row_sum=sum(e.row_sum for e in each) / len(each),
                recall=sum(e.recall for e in each) / len(each),
            )
        )
    return found


def _quantities(variant: str, found: Errors, setting: str) -> list[Quantity]:
    return [
        quantity(variant, "relative error of the output", found.output, setting),
        quantity(variant, "error of row sums", found.row_sum, setting),
        quantity(variant, "recall of the ten largest weights", found.recall, setting),
    ]


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Does the error fall with the budget and rise with the logits, and where is each at 1?"""
    errors = by_setting(quantities, "relative error of the output")
    verdicts: list[bool | None] = []
    words: list[str] = []
    exact: list[str] = []
    against: list[str] = []
    for variant, of in errors.items():
        heat = [value for setting, value in of.items() if setting.startswith("temperature")]
        budgets = [value for setting, value in of.items() if setting.startswith("budget")]
        name = title(variant)
        if max(heat) < EXACT:
            exact.append(name)
            continue
        mine = [heat[-1] > heat[0]]
        text = f"{name} {100 * of['temperature 1']:.0f} %"
        if budgets:
            mine.append(budgets[-1] < budgets[0])
            text += (
                f" ({100 * budgets[0]:.0f} % with a budget of {BUDGETS[0]}, "
                f"{100 * budgets[-1]:.0f} % with {BUDGETS[-1]})"
            )
        words.append(
            f"{text}, {100 * heat[-1]:.0f} % with logits {TEMPERATURES[-1]:g} times as large"
        )
        verdicts += mine
        if not all(mine):
            against.append(name)
    sentence = "; ".join(words) or "no mechanism approximates"
    if exact:
        sentence += f"; {', '.join(exact)} errs by rounding only"
    if against:
        sentence += f"; against the claim: {', '.join(against)}"
    return Conclusion(
        finding=f"Relative error of the output, random inputs, no training: {sentence}.",
        agrees=together(verdicts),
    )


ANALYSIS = Analysis(
    name="fidelity",
    title="Fidelity to softmax",
    question="How near are the approximations to exact softmax, without training?",
    claim=(
        "Errors fall with the budget (Performer, figure 4); they rise with the size of the logits."
    ),
    revision=2,
    variants=tuple(APPROXIMATIONS),
    run=run,
    conclude=conclude,
)
