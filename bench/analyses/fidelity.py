"""How near are the approximations to exact softmax attention, for the same q, k and v?

No training. Queries and keys are normal numbers times the square root of a temperature, so that the
logits have that standard deviation: small ones make nearly uniform weights, large ones spikes.
Against exact softmax in float64: relative error of the output, error of the row sums, and recall of
the ten largest weights of each row, over the budget (landmarks, features, rank, queries that
attend) at temperature 1, and over the temperature at the default budget.

Which mechanisms take part, and how each is set, is in `bench/approximations.py`. Every seed draws
inputs, random features and landmarks anew and is compared with itself; figures show means over the
seeds and their range.

After Choromanski et al., "Rethinking Attention with Performers", ICLR 2021,
https://arxiv.org/abs/2009.14794, figure 4, and Zeng et al., "Multi Resolution Analysis for
Approximate Self-Attention", ICML 2022, https://arxiv.org/abs/2207.10284 (error over entropy).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import cast

import torch
from torch import Tensor, nn

from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_seed,
    quantity,
    surely_positive,
    title,
    together,
)
from bench.approximations import APPROXIMATIONS, HEAD_DIM, Approximation, approximation
from bench.attention_matrix import Given, NotLinearError, shared_matrix
from bench.report import Curves, Line, Quantity

SIDE = 16
HEADS = 4
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
BUDGETS = (8, 16, 32, 64, 128)
TOP = 10
EXACT = 1e-9
"""An error below this is rounding."""
OUTPUT, HEAT = "relative error of the output", "temperature"
"""Name of a quantity, and how settings of its sweep begin."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one mechanism against exact softmax."""

    output: float
    """Frobenius norm of the difference / norm of the exact output."""
    row_sum: float
    """Mean of |sum of a row - 1|."""
    recall: float
    """Share of the ten largest weights of a row that are among its ten largest."""


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
        options = replace(options, **chosen.budget(budget, SIDE * SIDE))
    if hasattr(options, "seed"):
        options = replace(options, seed=seed)
    shape = AttentionShape(batch=1, grid=Grid(SIDE, SIDE), heads=HEADS, head_dim=HEAD_DIM)
    torch.manual_seed(seed)
    layer = spec.build(shape, options).double().eval()
    return cast("nn.Module", layer.mix)


def run(study: Study) -> Findings:
    """Sweep temperature and budget, from every seed."""
    quantities: list[Quantity] = []
    of_temperature: dict[str, list[list[Errors]]] = {}
    of_budget: dict[str, list[list[Errors]]] = {}
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
            quantities += _quantities(variant, found, f"temperature {temperature:g}", study.seeds)
        budgeted = _sweep(variant, [(b, 1.0) for b in BUDGETS], study) if chosen.budget else []
        if budgeted:
            of_budget[variant] = budgeted
            for budget, found in zip(BUDGETS, budgeted, strict=True):
                quantities += _quantities(variant, found, f"budget {budget}", study.seeds)
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
    found: Mapping[str, Sequence[Sequence[Errors]]], over: str, places: Sequence[float], x: str
) -> list[Curves]:
    """One figure for each of the three errors."""
    # rounding would take up most of a logarithmic axis
    approximate = {
        v: of for v, of in found.items() if max(e.output for seeds in of for e in seeds) > EXACT
    }
    asked: tuple[tuple[str, str, Callable[[Errors], float], bool], ...] = (
        ("Error", "relative error of the output", lambda e: e.output, True),
        ("Row sums", "mean |sum of a row - 1|", lambda e: e.row_sum, False),
        ("The ten largest weights", "share found again", lambda e: e.recall, False),
    )
    return [
        Curves(
            kind="lines", title=f"{name} over the {over}", x=x, y=y, log_x=True, log_y=log,
            lines=tuple(
                _line(v, places, [[value(e) for e in seeds] for seeds in of])
                for v, of in (approximate if log else found).items()
            ),
        )
        for name, y, value, log in asked
        if (approximate if log else found)
    ]  # fmt: skip


def _line(variant: str, places: Sequence[float], of_seeds: Sequence[Sequence[float]]) -> Line:
    """Means over the seeds, and their range where there are several."""
    several = len(of_seeds[0]) > 1
    return Line(
        variant=variant, label=title(variant), x=tuple(map(float, places)),
        y=tuple(map(fmean, of_seeds)), low=tuple(map(min, of_seeds)) if several else None,
        high=tuple(map(max, of_seeds)) if several else None,
    )  # fmt: skip


def _sweep(
    variant: str, settings: list[tuple[int | None, float]], study: Study
) -> list[list[Errors]]:
    """Return errors by setting and seed; nothing where the variant cannot be looked at."""
    found: list[list[Errors]] = []
    for budget, temperature in settings:
        try:
            each = [errors(built(variant, budget, seed), temperature, seed) for seed in study.seeds]
        except (UnsupportedShape, NotLinearError, ValueError) as reason:
            study.note(f"{variant}, budget {budget}, temperature {temperature:g}: {reason}")
            return []
        found.append(each)
    return found


def _quantities(
    variant: str, found: Sequence[Errors], setting: str, seeds: Sequence[int]
) -> Iterator[Quantity]:
    for seed, one in zip(seeds, found, strict=True):
        words = f"{setting}, seed {seed}"
        yield quantity(variant, OUTPUT, one.output, words)
        yield quantity(variant, "error of row sums", one.row_sum, words)
        yield quantity(variant, "recall of the ten largest weights", one.recall, words)


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Does the error fall with the budget and rise with the logits, and where is each at 1?

    The smallest against the largest, each seed against itself.
    """
    verdicts: list[bool | None] = []
    words: list[str] = []
    exact: list[str] = []
    others: dict[bool | None, list[str]] = {False: [], None: []}
    for variant, of in by_seed(quantities, OUTPUT).items():
        heat = [_in_order(seeds) for setting, seeds in of.items() if setting.startswith(HEAT)]
        budgets = [_in_order(s) for setting, s in of.items() if setting.startswith("budget")]
        name = title(variant)
        if max(map(max, heat)) < EXACT:
            exact.append(name)
            continue
        mine = [_surely_above(heat[-1], heat[0])]
        text = f"{name} {_percent(of[f'{HEAT} 1'].values())}"
        if budgets:
            mine.append(_surely_above(budgets[0], budgets[-1]))
            text += (
                f" ({_percent(budgets[0])} with a budget of {BUDGETS[0]}, "
                f"{_percent(budgets[-1])} with {BUDGETS[-1]})"
            )
        words.append(
            f"{text}, {_percent(heat[-1])} with logits {TEMPERATURES[-1]:g} times as large"
        )
        verdicts += mine
        verdict = together(mine)
        if verdict is not True:
            others[verdict].append(name)
    sentence = "; ".join(words) or "no mechanism approximates"
    if exact:
        sentence += f"; {', '.join(exact)} errs by rounding only"
    if others[False]:
        sentence += f"; surely against the claim: {', '.join(others[False])}"
    if others[None]:
        sentence += f"; not sure: {', '.join(others[None])}"
    return Conclusion(
        finding=f"Relative error of the output, random inputs, no training: {sentence}.",
        agrees=together(verdicts),
    )


def _in_order(seeds: Mapping[int, float]) -> list[float]:
    return [seeds[seed] for seed in sorted(seeds)]


def _surely_above(one: Sequence[float], other: Sequence[float]) -> bool | None:
    return surely_positive([a - b for a, b in zip(one, other, strict=True)])


def _percent(values: Iterable[float]) -> str:
    return f"{100 * fmean(values):.0f} %"


ANALYSIS = Analysis(
    name="fidelity",
    title="Fidelity to softmax",
    question="How near are the approximations to exact softmax, without training?",
    claim=(
        "Errors fall with the budget (Performer, figure 4); they rise with the size of the logits."
    ),
    paper_scale="random inputs: 4,096 tokens, heads of 16 channels, 15 draws",
    revision=3,
    variants=tuple(APPROXIMATIONS),
    run=run,
    conclude=conclude,
)
