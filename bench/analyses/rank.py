"""Rank, entropy and sharpness of attention matrices, with and without the local branch.

Without a local branch the matrix of linear attention has no more than head_dim independent rows
(InLine one more), however many tokens there are; a depthwise convolution lifts that. The numerical
rank counts singular values above 1e-9 of the largest, in float64; the effective rank is the
exponential of the entropy of the singular values, without any tolerance. Entropy and largest weight
are of the sizes of the weights, rows scaled to one. Every seed is looked into; figures show means
over the seeds and their range. Last, the focused map: how the angle between two positive vectors
changes with its power.

Han et al., "FLatten Transformer", ICCV 2023, https://arxiv.org/abs/2308.00442, figures 3 and 5.
Roy and Vetterli, "The effective rank", EUSIPCO 2007.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from attention_impls.registry import load
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
from bench.attention_matrix import Seen, matrix, seen, without_local_branch
from bench.report import Curves, Line, Quantity

IMAGES = 16
RELATIVE_TOLERANCE = 1e-9
POWERS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
_PAIRS = 2_000
_NOTHING = 1e-300
"""Instead of a sum that is zero: what is divided by it is zero, too."""


def numerical_rank(rows: Tensor) -> Tensor:
    """Singular values above RELATIVE_TOLERANCE of the largest, for each matrix."""
    values = torch.linalg.svdvals(rows)
    return (values > (RELATIVE_TOLERANCE * values[..., :1]).clamp(min=_NOTHING)).sum(-1)


def effective_rank(rows: Tensor) -> Tensor:
    """exp(entropy) of the singular values, scaled to sum 1, for each matrix."""
    values = torch.linalg.svdvals(rows)
    shares = values / values.sum(-1, keepdim=True).clamp(min=_NOTHING)
    return torch.special.entr(shares).sum(-1).exp()


def sharpened(power: float) -> tuple[float, float]:
    """Return the mean cosine of pairs of random positive vectors: nearest and farthest quarter.

    The focused map raises entries to `power` and keeps the norm, so cosines do not need it.
    """
    draws = torch.Generator().manual_seed(0)
    pairs = torch.rand(2, _PAIRS, 32, generator=draws, dtype=torch.float64)
    before = torch.cosine_similarity(pairs[0], pairs[1])
    after = torch.cosine_similarity(pairs[0] ** power, pairs[1] ** power)
    order = before.argsort()
    quarter = _PAIRS // 4
    return float(after[order[-quarter:]].mean()), float(after[order[:quarter]].mean())


def run(study: Study) -> Findings:
    """Per layer: ranks with and without the local branch, entropy, largest weight."""
    quantities: list[Quantity] = []
    whole: list[Line] = []
    bare: list[Line] = []
    tokens, head_dim = 0, 0
    for variant in study.variants:
        of_seeds: list[list[dict[str, float]]] = []
        for seed in study.seeds:
            learned = study.trained(variant, seed)
            layers = seen(learned.network, learned.data.test.inputs[:IMAGES].to(study.device))
            tokens, head_dim = layers[0].grid.tokens, layers[0].shape.head_dim
            of_seeds.append([_measured(variant, layer) for layer in layers])
            quantities += [
                quantity(variant, what, value, f"layer {place}, seed {seed}")
                for place, of_layer in enumerate(of_seeds[-1], start=1)
                for what, value in of_layer.items()
            ]
        whole.append(_line(variant, of_seeds, "effective rank with the local branch"))
        bare.append(_line(variant, of_seeds, "effective rank"))
    near, far = zip(*(sharpened(power) for power in POWERS), strict=True)
    quantities += [
        quantity(None, f"cosine of the {name} pairs", value, f"power {power:g}")
        for name, values in (("nearest", near), ("farthest", far))
        for power, value in zip(POWERS, values, strict=True)
    ]
    quantities += [
        quantity(None, "tokens", tokens),
        quantity(None, "channels of a head", head_dim),
    ]
    return Findings(
        quantities=tuple(quantities),
        figures=(
            _by_layer("Effective rank without local branches", bare, tokens),
            _by_layer("Effective rank with local branches", whole, tokens),
            Curves(
                kind="lines",
                title="What the focused map does to angles",
                x="power",
                y="mean cosine of pairs",
                lines=(
                    Line(variant="focused_linear", label="nearest quarter", x=POWERS, y=near),
                    Line(variant="focused_linear", label="farthest quarter", x=POWERS, y=far),
                ),
            ),
        ),
    )


def _line(variant: str, of_seeds: Sequence[Sequence[dict[str, float]]], what: str) -> Line:
    """One quantity over the layers: means over the seeds, and their range where there are some."""
    layers = [[of_layer[what] for of_layer in column] for column in zip(*of_seeds, strict=True)]
    several = len(of_seeds) > 1
    return Line(
        variant=variant, label=title(variant), x=tuple(map(float, range(1, len(layers) + 1))),
        y=tuple(map(fmean, layers)), low=tuple(map(min, layers)) if several else None,
        high=tuple(map(max, layers)) if several else None,
    )  # fmt: skip


def _by_layer(title: str, lines: list[Line], tokens: int) -> Curves:
    return Curves(
        kind="lines", title=title, x="layer", y="exp(entropy of the singular values)",
        lines=tuple(lines), level=float(tokens), level_label="tokens",
    )  # fmt: skip


def _measured(variant: str, layer: Seen) -> dict[str, float]:
    """Means over images and heads; ranks are the largest."""
    plain = without_local_branch(variant, load(variant).options, layer.shape, layer.of(0).mix)
    images = range(len(layer.x))
    rows = torch.stack([matrix(layer.of(item, plain)) for item in images])
    local = torch.stack([matrix(layer.of(item)) for item in images])
    # a row can be zero: relu leaves nothing of a query without positive entries
    sizes = rows.abs() / rows.abs().sum(-1, keepdim=True).clamp(min=_NOTHING)
    return {
        "rank": float(numerical_rank(rows).max()),
        "rank with the local branch": float(numerical_rank(local).max()),
        "effective rank": float(effective_rank(rows).mean()),
        "effective rank with the local branch": float(effective_rank(local).mean()),
        "entropy of a row / ln tokens": float(
            torch.special.entr(sizes).sum(-1).mean() / math.log(rows.shape[-1])
        ),
        "largest weight of a row": float(sizes.amax(-1).mean()),
    }


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Compare the largest ranks with the bound, and without with a local branch."""
    tokens = by_setting(quantities, "tokens")[None][""]
    head_dim = by_setting(quantities, "channels of a head")[None][""]
    bare, whole = (
        {v: max(of.values()) for v, of in by_setting(quantities, name).items()}
        for name in ("rank", "rank with the local branch")
    )
    listed = ", ".join(
        f"{title(v)} {bare[v]:.0f}"
        + (f" ({whole[v]:.0f} with its local branch)" if whole[v] != bare[v] else "")
        for v in bare
    )
    sentence = (
        f"Largest numerical rank of {tokens:.0f} x {tokens:.0f} matrices of heads with "
        f"{head_dim:.0f} channels: {listed}"
    )
    if tokens <= head_dim:
        words = "; with no more tokens than channels the bound cannot be seen."
        return Conclusion(finding=sentence + words, agrees=None)
    linear = [v for v in ("linear_relu", "linear_elu", "focused_linear") if v in bare]
    verdicts: list[bool | None] = [bare[v] <= head_dim for v in linear]
    verdicts += [whole[v] > bare[v] for v in linear if v == "focused_linear"]
    return Conclusion(finding=f"{sentence}.", agrees=together(verdicts))


ANALYSIS = Analysis(
    name="rank",
    title="Rank and sharpness",
    question="How many independent rows do attention matrices have, and how sharp are they?",
    claim=(
        "The rank of linear attention is bounded by the channels of a head; a depthwise "
        "convolution lifts it (FLatten, section 4.2 and figure 5)."
    ),
    revision=1,
    variants=("softmax", "inline", "linear_relu", "linear_elu", "focused_linear"),
    run=run,
    conclude=conclude,
)
