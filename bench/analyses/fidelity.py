"""How near are the approximations to exact softmax attention, for the same q, k and v?

No training. Queries and keys are normal numbers times the square root of a temperature, so that the
logits have that standard deviation: small ones make nearly uniform weights, large ones spikes.
Against exact softmax in float64: relative error of the output, error of the row sums, and recall of
the ten largest weights of each row, over the budget (landmarks, features, rank) at temperature 1,
and over the temperature at the default budget. Only mechanisms that are meant to approximate
softmax without training take part.

After Choromanski et al., "Rethinking Attention with Performers", ICLR 2021,
https://arxiv.org/abs/2009.14794, figure 4, and Zeng et al., "Multi Resolution Analysis for
Approximate Self-Attention", ICML 2022, https://arxiv.org/abs/2207.10284 (error over entropy).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
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
from bench.attention_matrix import Given, NotLinearError, matrix
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


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one mechanism against exact softmax."""

    output: float
    """Frobenius norm of the difference / norm of the exact output."""
    row_sum: float
    """Mean of |sum of a row - 1|."""
    recall: float
    """Share of the ten largest weights of a row that are among its ten largest."""


def budget_option(options: Any) -> str | None:
    """Return the name of the option that sets the budget; None where there is none."""
    names = [field.name for field in fields(options)]
    return next((name for name in BUDGET_OPTIONS if name in names), None)


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
    grid = Grid(SIDE, SIDE)
    x = torch.zeros(1, grid.tokens, HEADS * HEAD_DIM, dtype=torch.float64)
    weights = matrix(Given(mix, q, k, v, x, grid))
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
    spec = load(variant)
    options = spec.options
    if budget is not None:
        options = replace(options, **{str(budget_option(options)): budget})
    if hasattr(options, "seed"):
        options = replace(options, seed=seed)
    shape = AttentionShape(batch=1, grid=Grid(SIDE, SIDE), heads=HEADS, head_dim=HEAD_DIM)
    torch.manual_seed(seed)
    layer = spec.build(shape, options).double().eval()
    return cast("nn.Module", layer.mix)


def run(study: Study) -> Findings:
    """Sweep temperature and budget."""
    quantities: list[Quantity] = []
    lines: dict[str, list[Line]] = {"temperature": [], "budget": [], "sums": [], "recall": []}
    found_any = False
    for variant in study.variants:
        spec = load(variant)
        if not spec.traits.approximates_softmax:
            study.note(f"{variant} is not meant to approximate softmax: left out")
            continue
        warm = _sweep(variant, [(None, t) for t in TEMPERATURES], study)
        if not warm:
            continue
        found_any = True
        if max(e.output for e in warm) > EXACT:
            # rounding would take up most of a logarithmic axis
            lines["temperature"].append(_line(variant, TEMPERATURES, [e.output for e in warm]))
        lines["sums"].append(_line(variant, TEMPERATURES, [e.row_sum for e in warm]))
        lines["recall"].append(_line(variant, TEMPERATURES, [e.recall for e in warm]))
        for temperature, found in zip(TEMPERATURES, warm, strict=True):
            quantities += _quantities(variant, found, f"temperature {temperature:g}")
        if budget_option(spec.options) is None:
            continue
        budgeted = _sweep(variant, [(b, 1.0) for b in BUDGETS], study)
        if budgeted:
            lines["budget"].append(_line(variant, BUDGETS, [e.output for e in budgeted]))
            for budget, found in zip(BUDGETS, budgeted, strict=True):
                quantities += _quantities(variant, found, f"budget {budget}")
    if not found_any:
        raise ValueError(
            f"none of {', '.join(study.variants)} is meant to approximate softmax: choose others"
        )
    names = (
        ("temperature", "Error over the temperature", "standard deviation of the logits",
         "relative error of the output"),
        ("budget", "Error over the budget", "landmarks, features or rank",
         "relative error of the output"),
        ("sums", "Row sums", "standard deviation of the logits", "mean |sum of a row - 1|"),
        ("recall", "The ten largest weights", "standard deviation of the logits",
         "share found again"),
    )  # fmt: skip
    return Findings(
        quantities=tuple(quantities),
        figures=tuple(
            Curves(
                kind="lines", title=title, x=x, y=y, log_x=True, log_y=key in ("temperature",
                "budget"), lines=tuple(lines[key]),
            )
            for key, title, x, y in names
            if lines[key]
        ),
    )  # fmt: skip


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


def _line(variant: str, x: tuple[float, ...], y: list[float]) -> Line:
    return Line(variant=variant, label=load(variant).title, x=tuple(map(float, x)), y=tuple(y))


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Does the error fall with the budget and rise with the logits, and where is each at 1?"""
    errors = by_setting(quantities, "relative error of the output")
    verdicts: list[bool | None] = []
    words: list[str] = []
    exact: list[str] = []
    for variant, of in errors.items():
        heat = [value for setting, value in of.items() if setting.startswith("temperature")]
        budgets = [value for setting, value in of.items() if setting.startswith("budget")]
        name = title(variant)
        if max(heat) < EXACT:
            exact.append(name)
            continue
        verdicts.append(heat[-1] > heat[0])
        text = f"{name} {100 * of['temperature 1']:.0f} %"
        if budgets:
            verdicts.append(budgets[-1] < budgets[0])
            text += (
                f" ({100 * budgets[0]:.0f} % with a budget of {BUDGETS[0]}, "
                f"{100 * budgets[-1]:.0f} % with {BUDGETS[-1]})"
            )
        words.append(
            f"{text}, {100 * heat[-1]:.0f} % with logits {TEMPERATURES[-1]:g} times as large"
        )
    sentence = "; ".join(words) or "no mechanism approximates"
    if exact:
        sentence += f"; {', '.join(exact)} errs by rounding only"
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
    revision=1,
    variants=("softmax", "performer", "nystromformer"),
    run=run,
    conclude=conclude,
)
