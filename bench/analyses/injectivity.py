"""Do different queries get the same attention? The toy of InLine's figure 1, and trained networks.

Rows of A belong to queries. A normalised linear attention with a homogeneous feature map (relu)
gives collinear queries the same row: they are confused. Counting pairs that coincide needs a
tolerance; here is the whole sweep, never one of them. A pair counts if its rows differ by less than
the tolerance in the sum of absolute differences, while its queries differ by more than 5 %. Local
branches are left out: a depthwise convolution gives every row other entries, whatever the attention
does, and no two rows of a layer that has one could ever coincide. Mechanisms that have one are also
trained without it, as the paper's networks of that section are. Scaling all queries of a layer by
one factor is the same question on the line: what does not see it gives collinear queries one row.

Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024,
https://arxiv.org/abs/2412.06590, section 4.1 and figures 1 and 2. How the paper counts (tolerance,
layers, class token) is not stated; here all layers, heads and seeds are pooled, without a class
token.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from statistics import fmean
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
    any_matrix,
    matrix,
    seen,
    without_local_branch,
    without_local_options,
)
from bench.mechanism import Mechanism, by_mechanism, mechanisms
from bench.report import Curves, Line, Quantity

TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)
SCALES = (0.5, 1.0, 2.0, 4.0)
IMAGES = 64
INJECTIVE, LINEAR = ("softmax", "inline"), ("linear_relu", "linear_elu")
EQUAL, SHARE = "equal pairs of six in the toy", "share of confused pairs"
CHANGE = "change of rows"
"""Names of quantities."""
_DIFFERENT = 0.05
"""Queries count as different if they differ by more than this share of their norm."""
_NO_EPSILON = 1e-300
"""Instead of what mechanisms add to a denominator: positive, and without effect."""
_MATTERS = 1e-3
"""Shares of all pairs that differ by less decide nothing: a few pairs of millions."""
_ROUNDING = 1e-5
"""A row that changes by less does not see the length of its query: epsilon and rounding do so."""
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
    for variant in study.variants:
        pairs = equal_pairs(toy(variant))
        quantities.append(quantity(variant, EQUAL, pairs))
    for mechanism in mechanisms(study.variants):
        variant = mechanism.variant
        of_images: list[Tensor] = []
        changes: list[list[float]] = []
        for seed in study.seeds:
            counts, moved, pairs = _trained(study, mechanism, seed)
            of_images.append(counts.double() / pairs)
            changes.append(moved.tolist())
            quantities += _counted(mechanism, counts.double(), pairs, seed)
            quantities += [
                quantity(variant, CHANGE, change,
                         mechanism.setting(f"queries times {scale:g}, seed {seed}"))
                for scale, change in zip(SCALES, changes[-1], strict=True)
            ]  # fmt: skip
        share = torch.cat(of_images)
        sweeps.append(
            Line(
                variant=variant,
                label=mechanism.label,
                x=TOLERANCES,
                y=tuple(share.mean(0).tolist()),
                low=tuple(share.quantile(0.05, 0).tolist()),
                high=tuple(share.quantile(0.95, 0).tolist()),
            )
        )
        others = [place for place, scale in enumerate(SCALES) if scale != 1]
        columns = [[of_seed[place] for of_seed in changes] for place in others]
        several = len(changes) > 1
        scalings.append(
            Line(
                variant=variant, label=mechanism.label, x=tuple(SCALES[n] for n in others),
                y=tuple(map(fmean, columns)),
                low=tuple(map(min, columns)) if several else None,
                high=tuple(map(max, columns)) if several else None,
            )
        )  # fmt: skip
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
                log_y=True,
                lines=tuple(scalings),
            ),
        ),
    )


def _counted(mechanism: Mechanism, counts: Tensor, pairs: int, seed: int) -> Iterator[Quantity]:
    """Yield what one seed's counts [images, tolerances] come to."""
    for place, tolerance in enumerate(TOLERANCES):
        setting = mechanism.setting(f"tolerance {tolerance:g}, seed {seed}")
        column = counts[:, place]
        median, high = column.quantile(torch.tensor([0.5, 0.95]).double())
        for name, value in (
            ("confused pairs an image, median", median),
            ("confused pairs an image, 95 %", high),
            (SHARE, column.mean() / pairs),
        ):
            yield quantity(mechanism.variant, name, float(value), setting)


def _trained(study: Study, mechanism: Mechanism, seed: int) -> tuple[Tensor, Tensor, int]:
    """Return counts [images, tolerances], mean changes [scales], and pairs an image."""
    counts: list[Tensor] = []
    moved: list[Tensor] = []
    variant, pairs = mechanism.variant, 0
    learned = study.trained(variant, seed, dict(mechanism.changed))
    inputs = learned.data.test.inputs[:IMAGES].to(study.device)
    layers = seen(learned.network, inputs)
    mixes = [
        without_local_branch(variant, mechanism.options, layer.shape, layer.of(0).mix)
        for layer in layers
    ]
    for item in range(len(inputs)):
        count = torch.zeros(len(TOLERANCES), dtype=torch.int64)
        pairs = 0
        for layer, bare in zip(layers, mixes, strict=True):
            given = layer.of(item, bare)
            rows = any_matrix(given)
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
        scaled = any_matrix(replace(given, q=given.q * scale)) if scale != 1 else rows
        found.append((scaled - rows).abs().sum(-1).mean().cpu())
    return torch.stack(found)


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Compare linear with injective mechanisms: every tolerance, the toy, and scaled queries."""
    shares = by_mechanism(quantities, SHARE)
    toys = {v: of[""] for v, of in by_setting(quantities, EQUAL).items()}
    place = "tolerance 0.001"
    listed = ", ".join(
        f"{m.label} {_percent(of[place].values())}"
        for m, of in sorted(shares.items(), key=lambda item: -fmean(item[1][place].values()))
    )
    sentence = (
        "Share of pairs of different queries that get the same attention (rows within 1e-3): "
        f"{listed}"
    )
    injective = [m for m in shares if m.variant in INJECTIVE]
    verdicts: list[bool | None] = []
    for linear in (m for m in shares if m.variant in LINEAR):
        if not injective:
            continue
        signs = [_apart(shares, linear, injective, setting) for setting in shares[linear]]
        more, fewer = signs.count(1), signs.count(-1)
        # seeds that disagree at some tolerance do not decide
        verdicts.append(True if more == len(signs) else False if fewer and not more else None)
        but = f" and fewer at {fewer}" if fewer else ""
        sentence += (
            f"; {linear.label} confuses more than every injective one at {more} of {len(signs)} "
            f"tolerances{but}, in every seed and by at least {100 * _MATTERS:g} % of all pairs"
        )
    if toys:
        equal = " and ".join(f"{title(v)} ({of:.0f} of 6)" for v, of in toys.items() if of)
        sentence += f"; collinear queries of the toy get equal rows from {equal or 'none'}"
        others = [toys[v] for v in INJECTIVE if v in toys]
        if "linear_relu" in toys and others:
            verdicts.append(toys["linear_relu"] > max(others))
    scaled = by_mechanism(quantities, CHANGE)
    doubled = {m: fmean(of["queries times 2"].values()) for m, of in scaled.items()}
    if doubled:
        words = ", ".join(f"{m.label} {value:.1g}" for m, value in doubled.items())
        sentence += f"; queries twice as long change a row by {words}"
        verdicts += [value > _ROUNDING for m, value in doubled.items() if m in injective]
        verdicts += [v < _ROUNDING for m, v in doubled.items() if m.variant == "linear_relu"]
    return Conclusion(finding=f"{sentence}.", agrees=together(verdicts))


def _percent(shares: Collection[float]) -> str:
    """Mean and range over the seeds."""
    ends = f"{100 * min(shares):.2g} to {100 * max(shares):.2g} by seed"
    return f"{100 * fmean(shares):.2g} %" + (f" ({ends})" if max(shares) else "")


def _apart(
    shares: dict[Mechanism, dict[str, dict[int, float]]],
    linear: Mechanism,
    injective: Sequence[Mechanism],
    setting: str,
) -> int:
    """1 if `linear` confuses more pairs than every injective one in every seed, -1 if fewer."""
    gaps = [
        share - max(shares[other][setting][seed] for other in injective)
        for seed, share in shares[linear][setting].items()
    ]
    if min(gaps) > _MATTERS:
        return 1
    return -1 if max(gaps) < -_MATTERS else 0


ANALYSIS = Analysis(
    name="injectivity",
    title="Confused queries",
    question="Do different queries get the same attention weights?",
    claim=(
        "Linear attention confuses many queries, softmax and InLine attention hardly any (InLine, "
        "section 4.1 and figure 2)."
    ),
    paper_scale="DeiT-T on ImageNet-1K: 12 layers, 196 tokens, a class token",
    revision=3,
    variants=("softmax", "inline", "linear_relu", "linear_elu"),
    run=run,
    conclude=conclude,
)
