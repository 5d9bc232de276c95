"""Do different queries get the same attention? The toy of InLine's figure 1, and trained networks.

Rows of A belong to queries. A normalised linear attention with a homogeneous feature map (relu)
gives collinear queries the same row: they are confused. Counting pairs that coincide needs a
tolerance; here is the whole sweep, never one of them. A pair counts if its rows differ by less than
the tolerance in the sum of absolute differences, while its queries differ by more than 5 %. Local
branches are left out: a depthwise convolution gives every row other entries, whatever the attention
does, and no two rows of a layer that has one could ever coincide.

Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024,
https://arxiv.org/abs/2412.06590, section 4.1 and figures 1 and 2. How the paper counts (tolerance,
layers, class token) is not stated; here all layers, heads and seeds are pooled, without a class
token.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, Grid
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
from bench.attention_matrix import (
    Given,
    matrix,
    seen,
    without_local_branch,
    without_local_options,
)
from bench.report import Curves, Line, Quantity

TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)
SCALES = (0.5, 1.0, 2.0, 4.0)
IMAGES = 64
_DIFFERENT = 0.05
"""Queries count as different if they differ by more than this share of their norm."""
_NO_EPSILON = 1e-300
"""Instead of what mechanisms add to a denominator: positive, and without effect."""
_MATTERS = 1e-3
"""Shares of all pairs that differ by less decide nothing: a few pairs of millions."""
_EQUAL = 1e-12
"""Rows of the toy that differ by less are equal: rounding of float64 is a thousand times less."""


def toy(variant: str) -> Tensor:
    """Return the rows [4, 4] of four collinear queries in two dimensions, in float64.

    The queries are 1, 2, 3 and 4 times (1, 2); the keys are fixed and no two of them collinear.
    Local branches are switched off, and what is added to a denominator is 0: the mathematics.
    """
    spec = load(variant)
    options = without_local_options(spec.options)
    if isinstance(getattr(options, "epsilon", None), float):
        options = replace(options, epsilon=_NO_EPSILON)
    grid = Grid(1, 4)
    shape = AttentionShape(batch=1, grid=grid, heads=1, head_dim=2)
    torch.manual_seed(0)
    layer = spec.build(shape, options).double().eval()
    q = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 2.0]])
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    v = torch.ones(1, 1, 4, 2, dtype=torch.float64)
    x = torch.zeros(1, 4, 2, dtype=torch.float64)
    return matrix(Given(cast("nn.Module", layer.mix), q[None, None], k[None, None], v, x, grid))[0]


def equal_pairs(rows: Tensor) -> int:
    """Pairs of rows that are equal up to rounding."""
    return int((_distances(rows) < _EQUAL).sum())


def confused(rows: Tensor, queries: Tensor) -> Tensor:
    """Count the pairs of different queries whose rows coincide, one number a tolerance."""
    apart = _distances(rows)
    upper = torch.triu_indices(len(queries), len(queries), 1)
    difference = torch.cdist(queries, queries)[upper[0], upper[1]]
    different = difference > _DIFFERENT * queries.norm(dim=1)[upper[0]]
    return torch.stack([((apart < t) & different).sum() for t in TOLERANCES])


def _distances(rows: Tensor) -> Tensor:
    """Sum of absolute differences of every pair i < j."""
    upper = torch.triu_indices(len(rows), len(rows), 1)
    return torch.cdist(rows, rows, p=1)[upper[0], upper[1]]


def run(study: Study) -> Findings:
    """Toy, tolerance sweep, and scaled queries."""
    quantities: list[Quantity] = []
    sweeps: list[Line] = []
    scalings: list[Line] = []
    shares: dict[str, list[float]] = {}
    for variant in study.variants:
        pairs = equal_pairs(toy(variant))
        quantities.append(quantity(variant, "equal pairs of six in the toy", pairs))
        counts, moved, pairs_seen = _trained(study, variant)
        share = counts.double() / pairs_seen
        shares[variant] = share.mean(0).tolist()
        sweeps.append(
            Line(
                variant=variant,
                label=load(variant).title,
                x=TOLERANCES,
                y=tuple(shares[variant]),
                low=tuple(share.quantile(0.05, 0).tolist()),
                high=tuple(share.quantile(0.95, 0).tolist()),
            )
        )
        scalings.append(
            Line(variant=variant, label=load(variant).title, x=SCALES, y=tuple(moved.tolist()))
        )
        for place, tolerance in enumerate(TOLERANCES):
            setting = f"tolerance {tolerance:g}"
            median, high = counts[:, place].double().quantile(torch.tensor([0.5, 0.95]).double())
            quantities += [
                quantity(variant, "confused pairs an image, median", float(median), setting),
                quantity(variant, "confused pairs an image, 95 %", float(high), setting),
                quantity(variant, "share of confused pairs", shares[variant][place], setting),
            ]
        quantities += [
            quantity(variant, "change of rows", change, f"queries times {scale:g}")
            for scale, change in zip(SCALES, moved.tolist(), strict=True)
        ]
    return Findings(
        quantities=tuple(quantities),
        figures=(
            Curves(
                kind="lines",
                title="Pairs of different queries with the same attention",
                x="tolerance: sum of absolute differences of two rows",
                y="share of all pairs, mean over images",
                log_x=True,
                lines=tuple(sweeps),
            ),
            Curves(
                kind="lines",
                title="What becomes of the rows when queries are scaled",
                x="factor of the queries",
                y="mean sum of absolute differences to the rows at factor 1",
                log_x=True,
                lines=tuple(scalings),
            ),
        ),
    )


def _trained(study: Study, variant: str) -> tuple[Tensor, Tensor, int]:
    """Return counts [seeds x images, tolerances], mean changes [scales], and pairs an image."""
    counts: list[Tensor] = []
    moved: list[Tensor] = []
    pairs = 0
    for seed in study.seeds:
        learned = study.trained(variant, seed)
        inputs = learned.data.test.inputs[:IMAGES].to(study.device)
        layers = seen(learned.network, inputs)
        options = load(variant).options
        mixes = [
            without_local_branch(variant, options, layer.shape, layer.of(0).mix) for layer in layers
        ]
        for item in range(len(inputs)):
            count = torch.zeros(len(TOLERANCES), dtype=torch.int64)
            pairs = 0
            for layer, bare in zip(layers, mixes, strict=True):
                given = layer.of(item, bare)
                rows = matrix(given)
                for head, of_head in enumerate(rows):
                    count += confused(of_head, given.q[0, head]).cpu()
                    pairs += len(of_head) * (len(of_head) - 1) // 2
                moved.append(_changes(given, rows))
            counts.append(count)
    return torch.stack(counts), torch.stack(moved).mean(0), pairs


def _changes(given: Given, rows: Tensor) -> Tensor:
    """Mean sum of absolute differences of the rows when the queries are scaled."""
    found: list[Tensor] = []
    for scale in SCALES:
        scaled = matrix(replace(given, q=given.q * scale)) if scale != 1 else rows
        found.append((scaled - rows).abs().sum(-1).mean().cpu())
    return torch.stack(found)


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Compare linear with injective mechanisms at every tolerance, and look at the toy."""
    shares = by_setting(quantities, "share of confused pairs")
    toys = {v: of[""] for v, of in by_setting(quantities, "equal pairs of six in the toy").items()}
    place = "tolerance 0.001"
    listed = ", ".join(
        f"{title(v)} {100 * of[place]:.2g} %"
        for v, of in sorted(shares.items(), key=lambda item: -item[1][place])
    )
    sentence = (
        "Share of pairs of different queries that get the same attention (rows within 1e-3): "
        f"{listed}"
    )
    injective = [name for name in ("softmax", "inline") if name in shares]
    verdicts: list[bool | None] = []
    for name in ("linear_relu", "linear_elu"):
        if name not in shares or not injective:
            continue
        most = {s: max(shares[other][s] for other in injective) for s in shares[name]}
        above = [s for s, value in shares[name].items() if value > most[s] + _MATTERS]
        below = [s for s, value in shares[name].items() if value < most[s] - _MATTERS]
        verdicts.append(not below if above or below else None)
        words = " and ".join(title(other) for other in injective)
        fewer = f" and fewer at {len(below)}" if below else ""
        sentence += (
            f"; {title(name)} confuses more than {words} at {len(above)} of {len(most)} "
            f"tolerances{fewer}, by at least {100 * _MATTERS:g} % of all pairs"
        )
    if toys:
        equal = " and ".join(f"{title(v)} ({of:.0f} of 6)" for v, of in toys.items() if of)
        sentence += f"; collinear queries of the toy get equal rows from {equal or 'none'}"
        if "linear_relu" in toys and injective:
            verdicts.append(toys["linear_relu"] > max(toys[other] for other in injective))
    return Conclusion(finding=f"{sentence}.", agrees=together(verdicts))


ANALYSIS = Analysis(
    name="injectivity",
    title="Confused queries",
    question="Do different queries get the same attention weights?",
    claim=(
        "Linear attention confuses many queries, softmax and InLine attention hardly any (InLine, "
        "section 4.1 and figure 2)."
    ),
    revision=2,
    variants=("softmax", "inline", "linear_relu", "linear_elu"),
    run=run,
    conclude=conclude,
)
