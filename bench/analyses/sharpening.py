"""What the focused map does to angles: of random vectors, and of trained queries and keys.

The map raises the entries of a vector without negative ones to a power and keeps its norm, so that
the largest entry gains. The paper proves that for two vectors whose largest entries stand in the
same channel some power makes the product of their images larger, and for two whose largest entries
stand in different channels some power makes it smaller. Norms are kept, so cosines show both. Here
are mean cosines over a sweep of powers, the published 3 among them, and the share of pairs for
which a power of the sweep does what the proposition says. Trained queries and keys are those of
focused linear attention, rectified and scaled, before its power; vectors hold the channels of all
heads, as the authors' code takes norms.

Han et al., "FLatten Transformer", ICCV 2023, https://arxiv.org/abs/2308.00442, section 4.1,
propositions 1 and 2 and table of powers (2, 3, 4, 8, 32).
"""

import copy
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Literal, cast

import torch
from torch import Tensor

from attention_impls.variants.focused_linear import EPSILON, FocusedLinearMix
from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_seed,
    quantity,
    surely_positive,
    together,
)
from bench.attention_matrix import Given, seen
from bench.report import Curves, Line, Quantity

VARIANT = "focused_linear"
POWERS = (1, 2, 3, 4, 8, 16, 32)
PUBLISHED = 3
IMAGES = 16
RANDOM_PAIRS, RANDOM_CHANNELS = 20_000, 32
Kind = Literal["same", "different"]
KINDS: tuple[Kind, ...] = ("same", "different")
"""Whether the largest entries of both vectors stand in one channel."""
COSINE = {kind: f"mean cosine, {kind} largest channel" for kind in KINDS}
AS_PROVEN = {
    "same": "share of pairs nearer at some power, same largest channel",
    "different": "share of pairs farther apart at some power, different largest channel",
}
RANDOM = "random vectors"


def cosines(x: Tensor, y: Tensor, power: float) -> Tensor:
    """Cosine of each pair of rows of x and y, raised to `power`; of rows of zeros it is 0."""
    # powers of what is at most 1 can vanish, but not overflow
    x, y = (t / t.amax(-1, keepdim=True).clamp(min=1e-300) for t in (x, y))
    return torch.cosine_similarity(x**power, y**power)


def run(study: Study) -> Findings:
    """Sweep the power on random pairs, and on queries and keys of every layer and seed."""
    quantities = list(_quantities(*_random(), f"{RANDOM}, seed 0"))
    for variant in study.of(VARIANT):
        for seed in study.seeds:
            learned = study.trained(variant, seed)
            inputs = learned.data.test.inputs[:IMAGES].to(study.device)
            for place, layer in enumerate(seen(learned.network, inputs), start=1):
                pairs = [_features(layer.of(item)) for item in range(len(layer.x))]
                q, k = (torch.cat(t) for t in zip(*pairs, strict=True))
                quantities += _quantities(q, k, f"trained, layer {place}, seed {seed}")
    return Findings(quantities=tuple(quantities), figures=tuple(_figures(quantities)))


def _random() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, RANDOM_PAIRS, RANDOM_CHANNELS, generator=draws, dtype=torch.float64)
    return x, y


@torch.no_grad()
def _features(given: Given) -> tuple[Tensor, Tensor]:
    """Return every query beside every key of one image, [pairs, channels], before the power."""
    plain = copy.copy(cast("FocusedLinearMix", given.mix))
    plain.power = 1
    inverse = plain.inverse_scale(given.v)
    floor = inverse * EPSILON
    q, _ = plain.focused(given.q, floor, inverse, floor)
    k, _ = plain.focused(given.k, plain.key_shift(inverse, floor), inverse, floor)
    tokens = q.shape[1]
    return q[0].repeat_interleave(tokens, 0), k[0].repeat(tokens, 1)


def _quantities(x: Tensor, y: Tensor, place: str) -> Iterator[Quantity]:
    """Yield cosines and shares of one set of pairs."""
    what, _, seed = place.rpartition(", ")
    same = x.argmax(1) == y.argmax(1)
    of = torch.stack([cosines(x, y, power) for power in POWERS])
    for kind, chosen in zip(KINDS, (same, ~same), strict=True):
        if not chosen.any():
            continue
        mine = of[:, chosen]
        moved = mine[1:].amax(0) > mine[0] if kind == "same" else mine[1:].amin(0) < mine[0]
        for power, value in zip(POWERS, mine.mean(1).tolist(), strict=True):
            yield quantity(VARIANT, COSINE[kind], value, f"{what}, power {power}, {seed}")
        yield quantity(VARIANT, AS_PROVEN[kind], float(moved.double().mean()), place)
        yield quantity(VARIANT, f"share of pairs, {kind} largest channel",
                       float(chosen.double().mean()), place)  # fmt: skip


def _figures(quantities: Sequence[Quantity]) -> Iterator[Curves]:
    lines: dict[str, list[Line]] = {}
    for kind in KINDS:
        places: dict[str, list[list[float]]] = {}
        for setting, seeds in by_seed(quantities, COSINE[kind]).get(VARIANT, {}).items():
            places.setdefault(setting.rpartition(", power ")[0], []).append(list(seeds.values()))
        for place, of in places.items():
            several = len(of[0]) > 1
            lines.setdefault(place, []).append(
                Line(
                    variant=None, label=f"{kind} largest channel", x=tuple(map(float, POWERS)),
                    y=tuple(map(fmean, of)), low=tuple(map(min, of)) if several else None,
                    high=tuple(map(max, of)) if several else None,
                )
            )  # fmt: skip
    for place, of in sorted(lines.items()):
        yield Curves(
            kind="lines", title=place[0].upper() + place[1:], x="power", y="mean cosine of pairs",
            log_x=True, lines=tuple(of),
        )  # fmt: skip


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Do near pairs come nearer, and far ones part, at the published power and at any?

    The published power decides, in trained networks: each seed against itself, the mean over the
    layers in which it has such pairs. The proposition names no power, so what random vectors do at
    that one cannot contradict it.
    """
    proven = {k: by_seed(quantities, AS_PROVEN[k]).get(VARIANT, {}) for k in KINDS}
    means = {k: by_seed(quantities, COSINE[k]).get(VARIANT, {}) for k in KINDS}
    moved: dict[Kind, dict[int, list[float]]] = {kind: {} for kind in KINDS}
    clauses: list[str] = []
    for place in proven["different"]:
        for kind in KINDS:
            if place not in proven[kind]:
                continue
            share = fmean(proven[kind][place].values())
            at = {p: means[kind][f"{place}, power {p}"] for p in POWERS}
            for seed, plain in at[1].items() if place != RANDOM else ():
                gap = at[PUBLISHED][seed] - plain
                moved[kind].setdefault(seed, []).append(gap if kind == "same" else -gap)
            mean = {p: fmean(of.values()) for p, of in at.items()}
            clauses.append(
                f"{place}, {kind} channel: {mean[1]:.2f} at power 1, {mean[PUBLISHED]:.2f} at "
                f"{PUBLISHED}, {mean[POWERS[-1]]:.2f} at {POWERS[-1]}, {100 * share:.1f} % "
                f"{'come nearer' if kind == 'same' else 'part'} at some power"
                + (f" ({len(at[1])} seeds have such pairs)" if place != RANDOM else "")
            )
    verdicts = [surely_positive([fmean(gaps) for gaps in of.values()]) for of in moved.values()]
    return Conclusion(
        finding=(
            "Mean cosine of pairs, by whether their largest entries stand in the same channel; "
            f"{'; '.join(clauses)}."
        ),
        agrees=together(verdicts),
    )


ANALYSIS = Analysis(
    name="sharpening",
    title="The focused map",
    question="What does the power of focused linear attention do to angles?",
    claim=(
        "The focused map brings queries and keys with the same largest channel nearer and parts "
        "those with different ones (FLatten, section 4.1, proposition 1)."
    ),
    paper_scale="a proof that names no power; its networks use power 3",
    revision=1,
    variants=(VARIANT,),
    run=run,
    conclude=conclude,
)
