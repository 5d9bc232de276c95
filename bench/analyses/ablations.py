"""InLine taken apart: feature map x injective or not, and the local residual x window.

Injective or not: InLine without its local residual against linear attention with the same feature
map, where the tree has one (relu). Every cell is a training with the task's recipe from every seed.
Window: InLine attention inside square windows that share weights, with and without the local
residual, up to the whole grid; the paper's 7, 14, 28 and 56 tokens a side become what the task's
grid allows (its divisors).

Han et al., "Bridging the Divide", NeurIPS 2024, https://arxiv.org/abs/2412.06590, tables of
ablations.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from bench.analysis import Analysis, Findings, Study, quantity
from bench.attention_matrix import without_local_options
from bench.derived import mean_of_seeds
from bench.learning import learn
from bench.model import Scalar
from bench.report import Curves, Line, Quantity
from bench.task import Assignment, task

FEATURE_MAPS = ("identity", "relu", "leaky_relu", "exp")
LINEAR = {"relu": "linear_relu"}
"""Feature map -> variant that is linear attention with it."""


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
    sentence = "; ".join(f"{q.setting} {100 * q.value:.1f} %" for q in quantities)
    return Findings(
        finding=f"Mean accuracy on {study.task}: {sentence}.",
        agrees=_agrees(injective),
        quantities=tuple(quantities),
        figures=(
            Curves(kind="bars", title="Feature map, injective or not",
                   x=f"feature map: {', '.join(FEATURE_MAPS)}", y="accuracy, fraction",
                   lines=tuple(injective)),
            Curves(kind="lines", title="Window, with and without the local residual",
                   x="tokens a side of the window", y="accuracy, fraction", lines=tuple(windowed)),
        ),
    )  # fmt: skip


def _injective(study: Study, quantities: list[Quantity]) -> Iterator[Line]:
    rows: tuple[tuple[str, dict[str, tuple[str, dict[str, Any]]]], ...] = (
        ("InLine, no local residual", {
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
            mean, low, high = mean_of_seeds(values)
            places.append(float(FEATURE_MAPS.index(name)))
            means.append(mean)
            ends.append((mean if low is None else low, mean if high is None else high))
            quantities.append(quantity(variant, "accuracy", mean, f"{label}, {name}"))
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
        label = "with the local residual" if local else "without the local residual"
        options: dict[str, Scalar] = {} if local else {"local_residual": False}
        means: list[float] = []
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
            mean, _, _ = mean_of_seeds(values)
            means.append(mean)
            quantities.append(quantity("inline", "accuracy", mean, f"{label}, window {side}"))
        yield Line(variant="inline", label=label, x=tuple(map(float, sides)), y=tuple(means))


def _agrees(injective: list[Line]) -> bool | None:
    """Whether InLine is ahead of linear attention with the same map by more than the spread."""
    inline, linear = injective
    place = FEATURE_MAPS.index("relu")
    ours = inline.x.index(float(place))
    if inline.low is None or linear.high is None or inline.low[ours] == inline.y[ours]:
        return None
    if inline.low[ours] > linear.high[0]:
        return True
    return False if inline.high and inline.high[ours] < (linear.low or linear.y)[0] else None


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
)
