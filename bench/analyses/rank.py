"""Rank, entropy and sharpness of attention matrices, with and without the local branch.

Without a local branch the matrix of linear attention has no more than head_dim independent rows
(InLine one more), however many tokens there are; a depthwise convolution lifts that. Both ways to
be without one are looked at: taken out of a network that was trained with it, and never there, as
in the paper's figure. The numerical rank counts singular values above a share of the largest, in
float64, for a sweep of shares; the effective rank is the exponential of the entropy of the singular
values, without any tolerance. Entropy and largest weight are of the sizes of the weights, rows
scaled to one, without local branch. Every seed is looked into; figures show means over the seeds
and their range.

Han et al., "FLatten Transformer", ICCV 2023, https://arxiv.org/abs/2308.00442, figure 5: one map of
196 tokens and heads of 64 channels has rank 196 with softmax, 54 with linear attention, 196 with
the convolution; how a rank is counted is not stated. Roy and Vetterli, "The effective rank",
EUSIPCO 2007.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

import torch
from torch import Tensor

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
from bench.attention_matrix import Seen, any_matrix, matrix, seen, without_local_branch
from bench.mechanism import WITHOUT, Mechanism, by_mechanism, mechanisms
from bench.report import Curves, Line, Quantity

IMAGES = 16
TOLERANCES = (1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
STATED = 1e-9
"""The tolerance at which ranks are named in the sentence."""
RANK, LARGEST = "mean rank", "largest rank"
EFFECTIVE, ENTROPY, SHARPEST = "effective rank", "entropy of a row / ln tokens", "largest weight"
LOCAL = ", with the local branch"
"""Names of quantities; the last is added to a name."""
_LINEAR = ("linear_relu", "linear_elu", "focused_linear", "inline")
_NOTHING = 1e-300
"""Instead of a sum that is zero: what is divided by it is zero, too."""


def numerical_rank(rows: Tensor, tolerance: float = STATED) -> Tensor:
    """Singular values above `tolerance` times the largest, for each matrix."""
    values = torch.linalg.svdvals(rows)
    return (values > (tolerance * values[..., :1]).clamp(min=_NOTHING)).sum(-1)


def effective_rank(rows: Tensor) -> Tensor:
    """exp(entropy) of the singular values, scaled to sum 1, for each matrix."""
    values = torch.linalg.svdvals(rows)
    shares = values / values.sum(-1, keepdim=True).clamp(min=_NOTHING)
    return torch.special.entr(shares).sum(-1).exp()


def run(study: Study) -> Findings:
    """Per layer: ranks with and without the local branch, entropy, largest weight."""
    quantities: list[Quantity] = []
    tokens, head_dim = 0, 0
    for mechanism in mechanisms(study.variants):
        variant, options = mechanism.variant, dict(mechanism.changed)
        for seed in study.seeds:
            learned = study.trained(variant, seed, options)
            layers = seen(learned.network, learned.data.test.inputs[:IMAGES].to(study.device))
            tokens, head_dim = layers[0].grid.tokens, layers[0].shape.head_dim
            for place, layer in enumerate(layers, start=1):
                quantities += [
                    quantity(variant, what, value,
                             mechanism.setting(f"layer {place}{where}, seed {seed}"))
                    for what, where, value in _measured(mechanism, layer)
                ]  # fmt: skip
    quantities += [
        quantity(None, "tokens", tokens),
        quantity(None, "channels of a head", head_dim),
    ]
    return Findings(quantities=tuple(quantities), figures=tuple(_figures(quantities)))


def _measured(mechanism: Mechanism, layer: Seen) -> Iterator[tuple[str, str, float]]:
    """Yield name, tolerance if it has one, and value: over images and heads."""
    own = layer.of(0).mix
    plain = without_local_branch(mechanism.variant, mechanism.options, layer.shape, own)
    images = range(len(layer.x))
    rows = torch.stack([any_matrix(layer.of(item, plain)) for item in images])
    yield from _ranks(rows, "")
    if mechanism.has_branch:
        yield from _ranks(torch.stack([matrix(layer.of(item)) for item in images]), LOCAL)
    # a row can be zero: relu leaves nothing of a query without positive entries
    sizes = rows.abs() / rows.abs().sum(-1, keepdim=True).clamp(min=_NOTHING)
    entropy = torch.special.entr(sizes).sum(-1).mean() / math.log(rows.shape[-1])
    yield ENTROPY, "", float(entropy)
    yield SHARPEST, "", float(sizes.amax(-1).mean())


def _ranks(rows: Tensor, local: str) -> Iterator[tuple[str, str, float]]:
    yield EFFECTIVE + local, "", float(effective_rank(rows).mean())
    for tolerance in TOLERANCES:
        found = numerical_rank(rows, tolerance).double()
        yield RANK + local, f", tolerance {tolerance:g}", float(found.mean())
        yield LARGEST + local, f", tolerance {tolerance:g}", float(found.max())


def _figures(quantities: Sequence[Quantity]) -> Iterator[Curves]:
    tokens = by_setting(quantities, "tokens")[None][""]
    head_dim = by_setting(quantities, "channels of a head")[None][""]
    for name, words in ((RANK, "without local branches"), (RANK + LOCAL, "with local branches")):
        lines = tuple(_over_tolerances(quantities, name))
        if lines:
            yield Curves(
                kind="lines", title=f"Numerical rank {words}, last layer", lines=lines,
                x="tolerance: share of the largest singular value", log_x=True, log_y=True,
                y=f"singular values above it, of {tokens:.0f}",
                level=head_dim, level_label="channels of a head",
            )  # fmt: skip
    asked = (
        (EFFECTIVE, "Effective rank without local branches", "exp(entropy of singular values)"),
        (ENTROPY, "Entropy of a row", "share of the entropy of uniform weights, fraction"),
        (SHARPEST, "Largest weight of a row", "share of the row, fraction"),
        (EFFECTIVE + LOCAL, "Effective rank with local branches",
         "exp(entropy of singular values)"),
    )  # fmt: skip
    for name, caption, y in asked:
        lines = tuple(_over_layers(quantities, name))
        if lines:
            yield Curves(kind="lines", title=caption, x="layer", y=y, lines=lines)


def _over_tolerances(quantities: Sequence[Quantity], name: str) -> Iterator[Line]:
    for mechanism, of in by_mechanism(quantities, name).items():
        last = max(setting.partition(",")[0] for setting in of)
        chosen = [list(of[f"{last}, tolerance {t:g}"].values()) for t in TOLERANCES]
        yield _line(mechanism, TOLERANCES, chosen)


def _over_layers(quantities: Sequence[Quantity], name: str) -> Iterator[Line]:
    for mechanism, of in by_mechanism(quantities, name).items():
        places = [float(setting.removeprefix("layer ")) for setting in of]
        yield _line(mechanism, places, [list(seeds.values()) for seeds in of.values()])


def _line(
    mechanism: Mechanism, places: Sequence[float], of_seeds: Sequence[Sequence[float]]
) -> Line:
    """Means over the seeds, and their range where there are several."""
    several = len(of_seeds[0]) > 1
    return Line(
        variant=mechanism.variant, label=mechanism.label, x=tuple(places),
        y=tuple(map(fmean, of_seeds)), low=tuple(map(min, of_seeds)) if several else None,
        high=tuple(map(max, of_seeds)) if several else None,
    )  # fmt: skip


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Compare the largest ranks with the bound, and ranks with and without a local branch."""
    tokens = by_setting(quantities, "tokens")[None][""]
    head_dim = by_setting(quantities, "channels of a head")[None][""]
    largest = by_mechanism(quantities, LARGEST)
    with_branch = _stated(by_mechanism(quantities, LARGEST + LOCAL))
    bare = _stated(largest)
    listed = ", ".join(
        f"{m.label} {value:.0f}"
        + (f" ({with_branch[m]:.0f} with its local branch)" if m in with_branch else "")
        for m, value in bare.items()
    )
    sentence = (
        f"Largest numerical rank (singular values above {STATED:g} of the largest, float64) of "
        f"{tokens:.0f} x {tokens:.0f} matrices of heads with {head_dim:.0f} channels: {listed}"
    )
    if tokens <= head_dim:
        words = "; with no more tokens than channels the bound cannot be seen."
        return Conclusion(finding=sentence + words, agrees=None)
    bounded = [m for m in largest if m.variant in _LINEAR]
    verdicts: list[bool | None] = [
        max(v for seeds in largest[m].values() for v in seeds.values())
        <= head_dim + (m.variant == "inline")
        for m in bounded
    ]
    if bounded:
        kept = sum(one is True for one in verdicts)
        sentence += (
            f"; the bound, {head_dim:.0f} and for InLine {head_dim + 1:.0f}, holds for {kept} of "
            f"{len(bounded)} linear mechanisms at every tolerance down to {min(TOLERANCES):g}"
        )
    for mechanism, of in by_mechanism(quantities, RANK + LOCAL).items():
        raised = _raised(quantities, mechanism, of)
        verdicts += [
            True if count == len(TOLERANCES) else None if count else False
            for count in raised.values()
        ]
        words = ", ".join(f"at {count} against {other}" for other, count in raised.items())
        sentence += (
            f"; the local branch of {title(mechanism.variant)} raises the mean rank, of "
            f"{len(TOLERANCES)} tolerances, {words}"
        )
    return Conclusion(finding=f"{sentence}.", agrees=together(verdicts))


def _stated(ranks: dict[Mechanism, dict[str, dict[int, float]]]) -> dict[Mechanism, float]:
    """Largest of all layers and seeds at the stated tolerance."""
    return {
        m: max(
            v for setting, seeds in of.items() if setting.endswith(f"tolerance {STATED:g}")
            for v in seeds.values()
        )
        for m, of in ranks.items()
    }  # fmt: skip


def _raised(
    quantities: Sequence[Quantity], mechanism: Mechanism, whole: dict[str, dict[int, float]]
) -> dict[str, int]:
    """At how many tolerances the branch raises the mean rank, against each way to be without one.

    The same network with and without its branch is compared in every layer and seed; networks that
    were trained differently by their means over both.
    """
    found: dict[str, int] = {}
    for other, bare in by_mechanism(quantities, RANK).items():
        if other.variant != mechanism.variant:
            continue
        same = other == mechanism
        count = 0
        for tolerance in TOLERANCES:
            mine, theirs = _at(whole, tolerance), _at(bare, tolerance)
            if same:
                count += all(a > b for a, b in zip(mine, theirs, strict=True))
            else:
                count += fmean(mine) > fmean(theirs)
        found["the same networks without it" if same else f"networks {WITHOUT}"] = count
    return found


def _at(of: dict[str, dict[int, float]], tolerance: float) -> list[float]:
    """Every layer and seed at one tolerance."""
    words = f"tolerance {tolerance:g}"
    return [v for setting, s in of.items() if setting.endswith(words) for v in s.values()]


ANALYSIS = Analysis(
    name="rank",
    title="Rank and sharpness",
    question="How many independent rows do attention matrices have, and how sharp are they?",
    claim=(
        "The rank of linear attention is bounded by the channels of a head; a depthwise "
        "convolution lifts it (FLatten, section 4.2 and figure 5)."
    ),
    paper_scale="third block of DeiT-T on ImageNet-1K: 196 tokens, heads of 64 channels",
    revision=2,
    variants=("softmax", "inline", "linear_relu", "linear_elu", "focused_linear"),
    run=run,
    conclude=conclude,
)
