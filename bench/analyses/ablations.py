"""InLine taken apart: feature map x injective or not, and the local residual x window.

Injective or not: InLine without its local residual against linear attention with the same feature
map, where the tree has one (relu). Every cell is a training with the task's recipe from every seed.
Window: InLine attention inside square windows that share weights, with and without the local
residual, up to the whole grid; the paper's 7, 14, 28 and 56 tokens a side become what the task's
grid allows (its divisors).

Han et al., "Bridging the Divide", NeurIPS 2024, https://arxiv.org/abs/2412.06590, tables of
ablations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_setting,
    quantity,
    together,
)
from bench.attention_matrix import without_local_options
from bench.derived import mean_of_seeds
from bench.learning import learn
from bench.model import Scalar
from bench.report import Curves, Line, Quantity
from bench.task import Assignment, task

FEATURE_MAPS = ("identity", "relu", "leaky_relu", "exp")
LINEAR = {"relu": "linear_relu"}
"""Feature map -> variant that is linear attention with it."""
INJECTIVE = "InLine, no local residual"
LABELS = {True: "with the local residual", False: "without the local residual"}


class Windowed(nn.Module):
    """An attention layer applied inside square windows of the grid."""

    def __init__(self, layer: nn.Module, side: int) -> None:
        super().__init__()
        self.layer = layer
        self.side = side

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Attend in each window on its own."""
        side, rows, columns = self.side, grid.height // self.side, grid.width // self.side
        parts = x.unflatten(1, (rows, side, columns, side)).transpose(2, 3)
        out = self.layer(parts.reshape(-1, side * side, x.shape[2]), Grid(side, side))
        out = out.view(len(x), rows, columns, side, side, -1).transpose(2, 3)
        return out.reshape(x.shape)


def windowed(spec: AttentionSpec, side: int) -> AttentionSpec:
    """Return the spec of the same layer inside windows of `side` x `side` tokens."""

    def make(shape: AttentionShape, options: Any) -> nn.Module:
        return Windowed(spec.build(shape.with_grid(Grid(side, side)), options), side)

    return replace(spec, make=make)


def windows(grid: Grid) -> tuple[int, ...]:
    """Return the sides of windows that tile a square grid, from 2 up to the grid itself."""
    return tuple(side for side in range(2, grid.height + 1) if grid.height % side == 0)


def run(study: Study) -> Findings:
    """Train every cell of both tables."""
    quantities: list[Quantity] = []
    injective = list(_injective(study, quantities))
    windowed = list(_windows(study, quantities))
    return Findings(
        quantities=tuple(quantities),
        figures=(
            Curves(kind="bars", title="Feature map, injective or not", x="feature map",
                   y="accuracy, fraction", lines=tuple(injective), names=FEATURE_MAPS),
            Curves(kind="lines", title="Window, with and without the local residual",
                   x="tokens a side of the window", y="accuracy, fraction", lines=tuple(windowed)),
        ),
    )  # fmt: skip


def _injective(study: Study, quantities: list[Quantity]) -> Iterator[Line]:
    rows: tuple[tuple[str, dict[str, tuple[str, dict[str, Any]]]], ...] = (
        (INJECTIVE, {
            name: ("inline", {"local_residual": False} | (
                {} if name == "identity" else {"feature_map": name}))
            for name in FEATURE_MAPS
        }),
        ("linear attention", {name: (variant, {}) for name, variant in LINEAR.items()}),
    )  # fmt: skip
    for label, cells in rows:
        places: list[float] = []
        means: list[float] = []
        ends: list[tuple[float, float]] = []
        for name, (variant, options) in cells.items():
            values = [study.trained(variant, seed, options).result.accuracy for seed in study.seeds]
            mean, low, high = _kept(variant, values, f"{label}, {name}", quantities)
            places.append(float(FEATURE_MAPS.index(name)))
            means.append(mean)
            ends.append((low, high))
        yield Line(
            variant="inline" if "InLine" in label else "linear_relu", label=label,
            x=tuple(places), y=tuple(means), low=tuple(low for low, _ in ends),
            high=tuple(high for _, high in ends),
        )  # fmt: skip


def _windows(study: Study, quantities: list[Quantity]) -> Iterator[Line]:
    of = task(study.task)
    size: Any = of.recipe["network"]
    grid = Grid(size.grid.height, size.grid.width)
    inline = load("inline")
    for local in (True, False):
        label = LABELS[local]
        options: dict[str, Scalar] = {} if local else {"local_residual": False}
        means: list[tuple[float, float, float]] = []
        sides = windows(grid)
        for side in sides:
            values: list[float] = []
            for seed in study.seeds:
                if side == grid.height:
                    values.append(study.trained("inline", seed, options).result.accuracy)
                    continue
                order = Assignment(
                    spec=windowed(inline, side),
                    options=inline.options if local else without_local_options(inline.options),
                    seed=seed,
                    device=study.device,
                )
                study.note(f"inline, {label}, window {side}, seed {seed}")
                values.append(learn(of, order).result.accuracy)
            means.append(_kept("inline", values, f"{label}, window {side}", quantities))
        y, low, high = zip(*means, strict=True)
        yield Line(
            variant="inline", label=label, x=tuple(map(float, sides)), y=y, low=low, high=high
        )


def _kept(
    variant: str, values: list[float], setting: str, quantities: list[Quantity]
) -> tuple[float, float, float]:
    """Keep every seed; return mean and interval, the mean itself where there is no interval."""
    quantities += [
        quantity(variant, "accuracy", value, f"{setting}, seed {number}")
        for number, value in enumerate(values)
    ]
    mean, low, high = mean_of_seeds(values)
    return mean, mean if low is None else low, mean if high is None else high


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Compare intervals over the seeds: injective with linear, residual with none, windows."""
    seeds: dict[str, list[float]] = {}
    for of in by_setting(quantities, "accuracy").values():
        for setting, value in of.items():
            seeds.setdefault(setting.rpartition(", seed ")[0], []).append(value)
    pairs = [
        ("injective against linear", f"{INJECTIVE}, {name}", f"linear attention, {name}")
        for name in LINEAR
    ]
    sides = sorted({int(cell.rpartition(" ")[2]) for cell in seeds if ", window " in cell})
    pairs.append(
        ("local residual against none",
         f"{LABELS[True]}, window {sides[-1]}", f"{LABELS[False]}, window {sides[-1]}")
    )  # fmt: skip
    pairs += [
        (f"window {large} against {small}",
         f"{LABELS[True]}, window {large}", f"{LABELS[True]}, window {small}")
        for small, large in pairwise(sides)
    ]  # fmt: skip
    found = [(what, *_compared(seeds.get(a), seeds.get(b))) for what, a, b in pairs]
    words = {True: "better", False: "worse", None: "not told apart"}
    listed = "; ".join(f"{what} {text}: {words[verdict]}" for what, verdict, text in found)
    return Conclusion(
        finding=f"Mean accuracy, 95 % intervals over seeds: {listed}.",
        agrees=together([verdict for _, verdict, _ in found]),
    )


def _compared(one: list[float] | None, other: list[float] | None) -> tuple[bool | None, str]:
    """Whether `one` is ahead by more than both intervals; None: not told apart, or not trained."""
    if not one or not other:
        return None, "was not trained"
    (mean, low, high), (theirs, their_low, their_high) = mean_of_seeds(one), mean_of_seeds(other)
    text = f"{100 * mean:.1f} % against {100 * theirs:.1f} %"
    if low is None or high is None or their_low is None or their_high is None:
        return None, text
    if low > their_high:
        return True, text
    return (False if high < their_low else None), text


ANALYSIS = Analysis(
    name="ablations",
    title="InLine taken apart",
    question="What do injectivity, feature map, local residual and window contribute?",
    claim=(
        "Injective attention is more accurate than linear attention with every feature map, the "
        "local residual adds to it, and larger windows are better (InLine, tables of ablations)."
    ),
    revision=1,
    variants=("inline", "linear_relu"),
    run=run,
    conclude=conclude,
)
