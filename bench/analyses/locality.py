"""How much of the attention is local, and what does it cost to lose it?

Mass: the sum of each row's weights inside the 3 x 3 neighbourhood of its token (cut at the border
of the image), local branch included, against what uniform weights would have. Signed weights count
as they are; a second figure has the share by their size. Masking: at evaluation, without training
again, every query loses the tokens of its k x k neighbourhood, itself included, or as many random
others; the rest of its row is made whole again. Rows that sum to one without negative weights are
divided by their sum, which is what removing keys before normalisation gives; rows of InLine are
centred again over the tokens that are left, its formula over fewer keys; others stay as they are.
Local branches (convolutions) are not masked. Every seed is looked into; figures show means over the
seeds and their range.

Han et al., "Bridging the Divide", NeurIPS 2024, https://arxiv.org/abs/2412.06590, section 4.2,
figure 3 and the table of masked models; their networks have a class token, ours do not. The random
tokens are drawn once for each query from a fixed seed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import cast

import torch
from torch import Tensor, nn

from attention_impls.multihead import merge_heads
from attention_impls.registry import load
from attention_impls.shapes import Grid
from attention_impls.spec import Traits
from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_seed,
    by_setting,
    quantity,
    title,
    together,
)
from bench.attention_matrix import (
    Given,
    Seen,
    attentions,
    matrix,
    seen,
    shared_matrix,
    without_local_branch,
)
from bench.derived import LEAST_ROUNDS, student
from bench.report import Curves, Line, Quantity

SIDES = (3, 5, 7)
SIGNED, SIZES = "weight within 3 x 3", "size of weights within 3 x 3"
"""Names of quantities."""
IMAGES_MASS, IMAGES_MASKED = 64, 360
_DRAW_SEED = 0


def neighbourhood(grid: Grid, side: int) -> Tensor:
    """Return which tokens [tokens, tokens] lie in the side x side square around each token."""
    rows = torch.arange(grid.tokens) // grid.width
    columns = torch.arange(grid.tokens) % grid.width
    reach = side // 2
    return ((rows[:, None] - rows).abs() <= reach) & ((columns[:, None] - columns).abs() <= reach)


def random_tokens(grid: Grid, counts: Tensor) -> Tensor:
    """Return as many random tokens for each query as `counts` says: [tokens, tokens]."""
    draws = torch.Generator().manual_seed(_DRAW_SEED)
    order = torch.rand(grid.tokens, grid.tokens, generator=draws).argsort(1).argsort(1)
    return order < counts[:, None]


def masked(weights: Tensor, removed: Tensor, traits: Traits) -> Tensor:
    """Return weights [heads, tokens, tokens] without the `removed` keys, made whole again.

    A row that loses every key becomes zero.
    """
    kept = ~removed
    rest = weights * kept
    if not traits.rows_sum_to_one:
        return rest
    if traits.nonnegative_weights:
        return rest / rest.sum(-1, keepdim=True).clamp(min=1e-12)
    left = kept.sum(-1, keepdim=True).clamp(min=1)
    mean = rest.sum(-1, keepdim=True) / left
    centred = (len(kept) / left) * (rest - mean) + 1 / left
    return centred * kept


@dataclass(slots=True)
class _Masking:
    """A layer that computes with masked weights, image by image."""

    bare: nn.Module
    """The layer's mix without local branch, float64."""
    removed: Tensor
    traits: Traits

    def __call__(self, layer: nn.Module, given: tuple[Tensor, Grid], out: Tensor) -> Tensor:
        """Replace the layer's output (a forward hook)."""
        answers = [self._one(layer, x[None].double(), given[1]) for x in given[0]]
        difference = torch.cat(answers).to(out.dtype)
        # the projection is linear: what masking changes is added to what came out
        projection = cast("nn.Linear", layer.out)
        return out + nn.functional.linear(difference, projection.weight)

    def _one(self, layer: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        """Masked minus whole mix of one image: [1, tokens, channels]."""
        narrow = next(layer.parameters()).dtype
        project = cast("Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]", layer.project)
        q, k, v = (t.double() for t in project(x.to(narrow)))
        weights = shared_matrix(Given(self.bare, q, k, v, x, grid))
        change = masked(weights, self.removed, self.traits) - weights
        return merge_heads(change[None] @ v)


def run(study: Study) -> Findings:
    """Mass by layer, and accuracy by number of masked tokens, of every seed."""
    quantities: list[Quantity] = []
    signed: list[Line] = []
    sizes: list[Line] = []
    losses: list[Line] = []
    uniform = 0.0
    for variant in study.variants:
        name = title(variant)
        masses: list[list[float]] = []
        shares: list[list[float]] = []
        for seed in study.seeds:
            mass, size, uniform = _mass(study, variant, seed)
            masses.append(mass)
            shares.append(size)
            for what, values in ((SIGNED, mass), (SIZES, size)):
                quantities += [
                    quantity(variant, what, value, f"layer {n}, seed {seed}")
                    for n, value in enumerate(values, start=1)
                ]
        layers = tuple(range(1, len(masses[0]) + 1))
        signed.append(_line(variant, name, layers, masses))
        sizes.append(_line(variant, name, layers, shares))
        for kind in ("local", "random"):
            counts: list[float] = []
            found: list[list[float]] = []
            for seed in study.seeds:
                counts, accuracies = _accuracies(study, variant, seed, kind)
                found.append(accuracies)
                what = f"accuracy, {kind} tokens masked"
                quantities += [
                    quantity(variant, what, a, f"{c:.1f} a query, seed {seed}")
                    for c, a in zip(counts, accuracies, strict=True)
                ]
            losses.append(_line(variant, f"{name}, {kind}", counts, found))
    quantities.append(quantity(None, "uniform weight within 3 x 3", uniform))
    quantities.append(quantity(None, "images that were masked", IMAGES_MASKED))
    return Findings(
        quantities=tuple(quantities),
        figures=(
            _by_layer("Weight within the 3 x 3 neighbourhood", signed, uniform),
            _by_layer("Size of weights within the 3 x 3 neighbourhood", sizes, uniform),
            Curves(
                kind="lines", title="Accuracy when tokens are masked at evaluation",
                x="tokens masked, mean a query", y="accuracy, fraction", lines=tuple(losses),
            ),
        ),
    )  # fmt: skip


def _line(
    variant: str, label: str, places: Sequence[float], of_seeds: Sequence[Sequence[float]]
) -> Line:
    """Means over the seeds, and their range where there are several."""
    columns = list(zip(*of_seeds, strict=True))
    several = len(of_seeds) > 1
    return Line(
        variant=variant, label=label, x=tuple(map(float, places)), y=tuple(map(fmean, columns)),
        low=tuple(map(min, columns)) if several else None,
        high=tuple(map(max, columns)) if several else None,
    )  # fmt: skip


def _by_layer(title: str, lines: list[Line], uniform: float) -> Curves:
    return Curves(
        kind="lines", title=title, x="layer", y="sum, or share of the row", lines=tuple(lines),
        level=uniform, level_label="uniform weights",
    )  # fmt: skip


def _bare(variant: str, layer: Seen) -> nn.Module:
    return without_local_branch(variant, load(variant).options, layer.shape, layer.of(0).mix)


def _mass(study: Study, variant: str, seed: int) -> tuple[list[float], list[float], float]:
    """Return signed mass and mass of sizes by layer, and what uniform weights would have."""
    learned = study.trained(variant, seed)
    layers = seen(learned.network, learned.data.test.inputs[:IMAGES_MASS].to(study.device))
    near = neighbourhood(layers[0].grid, 3)
    signed: list[float] = []
    sizes: list[float] = []
    for layer in layers:
        rows = torch.stack([matrix(layer.of(item)) for item in range(len(layer.x))]).cpu()
        signed.append(float((rows * near).sum(-1).mean()))
        whole = rows.abs().sum(-1)
        there = whole > 0
        sizes.append(float(((rows.abs() * near).sum(-1)[there] / whole[there]).mean()))
    return signed, sizes, float(near.float().mean())


def _accuracies(
    study: Study, variant: str, seed: int, kind: str
) -> tuple[list[float], list[float]]:
    """Return tokens masked a query, and accuracy, for no mask and every side."""
    learned = study.trained(variant, seed)
    network = learned.network
    inputs = learned.data.test.inputs[:IMAGES_MASKED].to(study.device)
    labels = learned.data.test.labels[:IMAGES_MASKED].to(study.device)
    layers = seen(network, inputs[:1])
    counts: list[float] = [0.0]
    accuracies: list[float] = [_accuracy(network, inputs, labels)]
    for side in SIDES:
        grid = layers[0].grid
        removed = neighbourhood(grid, side)
        if kind == "random":
            removed = random_tokens(grid, removed.sum(1))
        handles = [
            attention.register_forward_hook(
                _Masking(_bare(variant, layer), removed, load(variant).traits)
            )
            for attention, layer in zip(attentions(network), layers, strict=True)
        ]
        try:
            accuracies.append(_accuracy(network, inputs, labels))
        finally:
            for handle in handles:
                handle.remove()
        counts.append(float(removed.sum(1).float().mean()))
    return counts, accuracies


@torch.no_grad()
def _accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    network.eval()
    return float((network(inputs).argmax(1) == labels).float().mean())


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Compare the first layer with uniform weights, and local with random masking of 3 x 3."""
    uniform = by_setting(quantities, "uniform weight within 3 x 3")[None][""]
    images = by_setting(quantities, "images that were masked")[None][""]
    first = {v: fmean(of["layer 1"].values()) for v, of in by_seed(quantities, SIZES).items()}
    verdicts: list[bool | None] = [share > uniform for share in first.values()]
    words: list[str] = []
    masks: dict[str | None, list[list[float]]] = {}
    for kind in ("local", "random"):
        for v, of in by_seed(quantities, f"accuracy, {kind} tokens masked").items():
            # nothing masked, then the smallest mask: one value a seed each
            masks.setdefault(v, []).extend([list(x.values()) for x in list(of.values())[:2]])
    for variant, (whole, there, _, elsewhere) in masks.items():
        verdicts.append(_more_is_lost(there, elsewhere, images))
        words.append(
            f"{title(variant)} {100 * (fmean(whole) - fmean(there)):.0f} and "
            f"{100 * (fmean(whole) - fmean(elsewhere)):.0f}"
        )
    more = sum(share > uniform for share in first.values())
    sure = sum(one is True for one in verdicts[len(first) :])
    return Conclusion(
        finding=(
            f"In the first layer {more} of {len(first)} mechanisms give 3 x 3 tokens more than "
            f"the {100 * uniform:.0f} % of uniform weights; masking 3 x 3 local tokens at "
            f"evaluation costs surely more accuracy than masking as many random ones for {sure} of "
            f"{len(words)} (points lost, local and random: {', '.join(words)})."
        ),
        agrees=together(verdicts),
    )


def _more_is_lost(there: list[float], elsewhere: list[float], images: float) -> bool | None:
    """Whether masking costs more there than elsewhere; None: not told apart.

    The difference must exceed two standard errors of two shares of so many images, and from three
    seeds on also the 95 % t-interval of the differences, each seed against itself.
    """
    gaps = [b - a for a, b in zip(there, elsewhere, strict=True)]
    gap, shares = fmean(gaps), (fmean(there), fmean(elsewhere))
    half = 2 * math.sqrt(sum(share * (1 - share) for share in shares) / images)
    if len(gaps) >= LEAST_ROUNDS:
        half = max(half, student(len(gaps) - 1) * stdev(gaps) / math.sqrt(len(gaps)))
    return None if abs(gap) <= half else gap > 0


ANALYSIS = Analysis(
    name="locality",
    title="Local attention",
    question="How much of the attention is local, and what does it cost to lose it?",
    claim=(
        "Attention is much more local than uniform weights, and losing local tokens costs far more "
        "accuracy than losing as many random ones (InLine, section 4.2)."
    ),
    revision=2,
    variants=("softmax", "inline", "linear_relu", "linear_elu", "focused_linear"),
    run=run,
    conclude=conclude,
)
