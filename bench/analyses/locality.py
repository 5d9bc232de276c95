"""How much of the attention is local, and what does it cost to lose it?

Mass: the sum of each row's weights inside the 3 x 3 neighbourhood of its token (cut at the border
of the image), local branch included, against what uniform weights would have. Signed weights count
as they are; a second figure has the share by their size. Masking: at evaluation, without training
again, every query loses the tokens of its k x k neighbourhood, itself included, or as many random
others; the rest of its row is made whole again (`bench/masking.py`). Local branches (convolutions)
are not masked: a network that has one keeps it, so every mechanism with a branch is also trained
without one, as in the paper, whose section is about attention by itself. Every seed is looked into;
figures show means over the seeds and their range.

Han et al., "Bridging the Divide", NeurIPS 2024, https://arxiv.org/abs/2412.06590, section 4.2,
figure 3 and the table of masked models: DeiT-T, 196 tokens and a class token, of which 3 x 3 are
4.6 %; our networks have no class token and fewer tokens.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from attention_impls.registry import load
from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_setting,
    mean_gap,
    quantity,
    surely_positive,
    title,
    together,
)
from bench.attention_matrix import any_matrix, attentions, seen, without_local_branch
from bench.masking import Masking, neighbourhood, random_tokens
from bench.mechanism import Mechanism, by_mechanism, mechanisms
from bench.report import Curves, Line, Quantity

SIDES = (3, 5, 7)
SIGNED, SIZES = "weight within 3 x 3", "size of weights within 3 x 3"
MASKED = {kind: f"accuracy, {kind} tokens masked" for kind in ("local", "random")}
"""Names of quantities."""
IMAGES_MASS, IMAGES_MASKED = 64, 360


def run(study: Study) -> Findings:
    """Mass by layer, and accuracy by number of masked tokens, of every seed."""
    quantities: list[Quantity] = []
    signed: list[Line] = []
    sizes: list[Line] = []
    losses: list[Line] = []
    uniform = 0.0
    for mechanism in mechanisms(study.variants):
        variant, name = mechanism.variant, mechanism.label
        masses: list[list[float]] = []
        shares: list[list[float]] = []
        for seed in study.seeds:
            mass, size, uniform = _mass(study, mechanism, seed)
            masses.append(mass)
            shares.append(size)
            for what, values in ((SIGNED, mass), (SIZES, size)):
                quantities += [
                    quantity(variant, what, value, mechanism.setting(f"layer {n}, seed {seed}"))
                    for n, value in enumerate(values, start=1)
                ]
        layers = tuple(range(1, len(masses[0]) + 1))
        signed.append(_line(variant, name, layers, masses))
        sizes.append(_line(variant, name, layers, shares))
        for kind, what in MASKED.items():
            counts: list[float] = []
            found: list[list[float]] = []
            for seed in study.seeds:
                counts, accuracies = _accuracies(study, mechanism, seed, kind)
                found.append(accuracies)
                quantities += [
                    quantity(variant, what, a,
                             mechanism.setting(f"{c:.1f} a query, seed {seed}"))
                    for c, a in zip(counts, accuracies, strict=True)
                ]  # fmt: skip
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


def _mass(study: Study, mechanism: Mechanism, seed: int) -> tuple[list[float], list[float], float]:
    """Return signed mass and mass of sizes by layer, and what uniform weights would have."""
    learned = study.trained(mechanism.variant, seed, dict(mechanism.changed))
    layers = seen(learned.network, learned.data.test.inputs[:IMAGES_MASS].to(study.device))
    near = neighbourhood(layers[0].grid, 3)
    signed: list[float] = []
    sizes: list[float] = []
    for layer in layers:
        rows = torch.stack([any_matrix(layer.of(item)) for item in range(len(layer.x))]).cpu()
        signed.append(float((rows * near).sum(-1).mean()))
        whole = rows.abs().sum(-1)
        there = whole > 0
        sizes.append(float(((rows.abs() * near).sum(-1)[there] / whole[there]).mean()))
    return signed, sizes, float(near.float().mean())


def _accuracies(
    study: Study, mechanism: Mechanism, seed: int, kind: str
) -> tuple[list[float], list[float]]:
    """Return tokens masked a query, and accuracy, for no mask and every side."""
    learned = study.trained(mechanism.variant, seed, dict(mechanism.changed))
    network, spec = learned.network, load(mechanism.variant)
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
                Masking(
                    without_local_branch(
                        spec.name, mechanism.options, layer.shape, layer.of(0).mix
                    ),
                    removed,
                    spec.traits,
                )
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
    """Compare mass with uniform weights, and local with random masking; who loses most?

    Masks of all sizes count alike: a seed's accuracy under local masks is the mean over the masks.
    """
    uniform = by_setting(quantities, "uniform weight within 3 x 3")[None][""]
    images = by_setting(quantities, "images that were masked")[None][""]
    verdicts: list[bool | None] = []
    masses: list[str] = []
    for mechanism, of in by_mechanism(quantities, SIZES).items():
        first = list(of["layer 1"].values())
        verdicts.append(surely_positive([share - uniform for share in first]))
        masses.append(f"{mechanism.label} {100 * fmean(first):.0f} % ({_SURE[verdicts[-1]]})")
    lost = {kind: _lost(quantities, kind) for kind in MASKED}
    words: list[str] = []
    for mechanism, (whole, there) in lost["local"].items():
        _, elsewhere = lost["random"][mechanism]
        verdicts.append(_more_is_lost(there, elsewhere, images))
        points = [100 * (fmean(whole) - fmean(masked)) for masked in (there, elsewhere)]
        words.append(
            f"{mechanism.label} {points[0]:.0f} and {points[1]:.0f} ({_SURE[verdicts[-1]]})"
        )
    return Conclusion(
        finding=(
            f"Share of the weights in 3 x 3 tokens, first layer, where uniform ones have "
            f"{100 * uniform:.0f} %: {', '.join(masses)}; points of accuracy lost to local and to "
            f"as many random masked tokens, mean of 3 x 3, 5 x 5 and 7 x 7: {', '.join(words)}"
            f"{_most_hurt(lost['local'])}."
        ),
        agrees=together(verdicts),
    )


_SURE = {True: "surely more", False: "surely less", None: "not sure"}


def _lost(
    quantities: Sequence[Quantity], kind: str
) -> dict[Mechanism, tuple[list[float], list[float]]]:
    """Return accuracies without a mask, and means over the masks: one a seed each."""
    found: dict[Mechanism, tuple[list[float], list[float]]] = {}
    for mechanism, of in by_mechanism(quantities, MASKED[kind]).items():
        whole, *masked = (list(seeds.values()) for seeds in of.values())
        found[mechanism] = whole, [fmean(column) for column in zip(*masked, strict=True)]
    return found


def _more_is_lost(there: list[float], elsewhere: list[float], images: float) -> bool | None:
    """Whether masking costs more there than elsewhere; None: not told apart.

    The difference must exceed two standard errors of two shares of so many images, and from three
    seeds on also the 95 % t-interval of the differences, each seed against itself.
    """
    gaps = [b - a for a, b in zip(there, elsewhere, strict=True)]
    gap, shares = fmean(gaps), (fmean(there), fmean(elsewhere))
    half = 2 * math.sqrt(sum(share * (1 - share) for share in shares) / images)
    over_seeds = mean_gap(gaps)
    if over_seeds is not None:
        half = max(half, over_seeds[1])
    return None if abs(gap) <= half else gap > 0


def _most_hurt(lost: dict[Mechanism, tuple[list[float], list[float]]]) -> str:
    """Say which others softmax surely loses more to local masks than, as in the paper's table."""
    own = lost.get(Mechanism("softmax"))
    if own is None or len(lost) == 1:
        return ""
    more = [
        mechanism.label
        for mechanism, theirs in lost.items()
        if surely_positive([
            (a - b) - (c - d) for a, b, c, d in zip(*own, *theirs, strict=True)
        ])
    ]  # fmt: skip
    return (
        f"; {title('softmax')} surely loses more to local masks than "
        f"{', '.join(more) or 'none of the others'}"
    )


ANALYSIS = Analysis(
    name="locality",
    title="Local attention",
    question="How much of the attention is local, and what does it cost to lose it?",
    claim=(
        "Attention gives its neighbourhood more weight than uniform weights would, and losing "
        "local tokens costs more accuracy than losing as many random ones (InLine, section 4.2)."
    ),
    paper_scale="DeiT-T on ImageNet-1K: 12 layers, 196 tokens, a class token",
    revision=3,
    variants=("softmax", "inline", "linear_relu", "linear_elu", "focused_linear"),
    run=run,
    conclude=conclude,
)
