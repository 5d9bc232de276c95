"""InLine taken apart: feature map x injective or not, and the local residual x window.

Injective or not: InLine without its local residual against linear attention, whose rows are divided
by their sums, with each of the same feature maps: the tree's own variants for relu and exp, and the
same formula for the identity and leaky relu, whose sums can be near zero or negative. A training
that diverges is an outcome of its cell. Window: InLine attention inside square windows that share
weights, with and without the local residual, up to the whole grid; the paper's 7, 14, 28 and 56
tokens a side become what the task's grid allows (its divisors). Every cell is a training with the
task's recipe from every seed.

Han et al., "Bridging the Divide", NeurIPS 2024, https://arxiv.org/abs/2412.06590, tables of
ablations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from attention_impls.multihead import FunctionMix, MultiHead
from attention_impls.parts.linear_attention import normalised_product
from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from attention_impls.variants.inline import FEATURE_MAPS as MAPS
from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_seed,
    quantity,
    together,
)
from bench.attention_matrix import without_local_options
from bench.derived import mean_of_seeds
from bench.learning import learn
from bench.model import Scalar
from bench.report import Curves, Line, Network, Quantity
from bench.task import Assignment, task
from bench.training import DivergedError

FEATURE_MAPS = tuple(MAPS)
LINEAR = {"relu": "linear_relu", "exp": "linear_exp"}
"""Feature map -> variant that is linear attention with it."""
INJECTIVE, NOT_INJECTIVE = "InLine, no local residual", "linear attention"
LABELS = {True: "with the local residual", False: "without the local residual"}
ACCURACY, DIVERGED = "accuracy", "step at which it diverged"
"""Names of quantities."""


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


def linear_with(feature_map: str) -> AttentionSpec:
    """Return linear attention with a feature map of InLine, rows divided by their sums."""
    spec = load("linear_relu")

    def mix(q: Tensor, k: Tensor, v: Tensor, *, epsilon: float) -> Tensor:
        return normalised_product(MAPS[feature_map](q), MAPS[feature_map](k), v, epsilon)

    def make(shape: AttentionShape, options: Any) -> nn.Module:
        function = FunctionMix(partial(mix, epsilon=options.epsilon))
        return MultiHead(shape, function, qkv_bias=options.qkv_bias)

    return replace(spec, make=make)


def run(study: Study) -> Findings:
    """Train every cell of both tables."""
    quantities: list[Quantity] = []
    injective = list(_injective(study, quantities))
    within = list(_windows(study, quantities))
    return Findings(
        quantities=tuple(quantities),
        figures=(
            Curves(kind="bars", title="Feature map, injective or not", x="feature map",
                   y="accuracy, fraction", lines=tuple(injective), names=FEATURE_MAPS),
            Curves(kind="lines", title="Window, with and without the local residual",
                   x="tokens a side of the window", y="accuracy, fraction", lines=tuple(within)),
        ),
    )  # fmt: skip


def _injective(study: Study, quantities: list[Quantity]) -> Iterator[Line]:
    for label, variant in ((INJECTIVE, "inline"), (NOT_INJECTIVE, "linear_relu")):
        places: list[tuple[float, float, float, float]] = []
        for place, name in enumerate(FEATURE_MAPS):
            trained = _injective_cell(study, label == INJECTIVE, name)
            ends = _kept(study, variant, trained, f"{label}, {name}", quantities)
            places += [(float(place), *ends)] if ends else []
        if places:
            x, y, low, high = zip(*places, strict=True)
            yield Line(variant=variant, label=label, x=x, y=y, low=low, high=high)


def _injective_cell(study: Study, injective: bool, name: str) -> Callable[[int], float]:
    if injective:
        plain = {} if name == "identity" else {"feature_map": name}
        options: dict[str, Scalar] = {"local_residual": False, **plain}
        return lambda seed: study.trained("inline", seed, options).result.accuracy
    if name in LINEAR:
        return lambda seed: study.trained(LINEAR[name], seed).result.accuracy
    spec = linear_with(name)
    return lambda seed: _learned(study, spec, spec.options, seed, f"feature_map={name}")


def _windows(study: Study, quantities: list[Quantity]) -> Iterator[Line]:
    size: Any = task(study.task).recipe["network"]
    sides = windows(size.grid)
    for local in (True, False):
        places: list[tuple[float, float, float, float]] = []
        for side in sides:
            trained = _window_cell(study, local, side, whole=side == size.grid.height)
            ends = _kept(study, "inline", trained, f"{LABELS[local]}, window {side}", quantities)
            places += [(float(side), *ends)] if ends else []
        if places:
            x, y, low, high = zip(*places, strict=True)
            yield Line(variant="inline", label=LABELS[local], x=x, y=y, low=low, high=high)


def _window_cell(study: Study, local: bool, side: int, *, whole: bool) -> Callable[[int], float]:
    if whole:
        options: dict[str, Scalar] = {} if local else {"local_residual": False}
        return lambda seed: study.trained("inline", seed, options).result.accuracy
    spec = windowed(load("inline"), side)
    chosen = spec.options if local else without_local_options(spec.options)
    words = f"window={side}" if local else f"local_residual=False, window={side}"
    return lambda seed: _learned(study, spec, chosen, seed, words)


def _learned(study: Study, spec: AttentionSpec, options: Any, seed: int, words: str) -> float:
    """Train a network that is none of the tree's variants; name it by what was changed."""
    of = task(study.task)
    study.note(f"{spec.name}, {words}, seed {seed}")
    result = learn(
        of, Assignment(spec=spec, options=options, seed=seed, device=study.device)
    ).result
    study.networks.append(
        Network(
            task=of.name, recipe_sha256=of.recipe_sha256, variant=spec.name,
            data_sha256=result.training.data_sha256, variant_revision=spec.revision,
            options=words, seed=seed, accuracy=result.accuracy,
        )
    )  # fmt: skip
    return result.accuracy


def _kept(
    study: Study,
    variant: str,
    trained: Callable[[int], float],
    cell: str,
    quantities: list[Quantity],
) -> tuple[float, float, float] | None:
    """Train and keep every seed; return mean and interval of those that finished, if any did."""
    values: list[float] = []
    for seed in study.seeds:
        setting = f"{cell}, seed {seed}"
        try:
            values.append(trained(seed))
        except DivergedError as ending:
            study.note(f"{setting}: {ending}")
            quantities.append(quantity(variant, DIVERGED, ending.step, setting))
            continue
        quantities.append(quantity(variant, ACCURACY, values[-1], setting))
    if not values:
        return None
    mean, low, high = mean_of_seeds(values)
    return mean, mean if low is None else low, mean if high is None else high


@dataclass(frozen=True, slots=True)
class _Cell:
    """All seeds of one cell of a table."""

    accuracies: tuple[float, ...] = ()
    diverged: int = 0

    @property
    def words(self) -> str:
        mean = f"{100 * mean_of_seeds(self.accuracies)[0]:.1f} %" if self.accuracies else ""
        lost = f"{self.diverged} of {self.diverged + len(self.accuracies)} diverged"
        return " and ".join(part for part in (mean, lost if self.diverged else "") if part)


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Compare what was trained: injective with linear, residual with none, windows.

    By intervals over the seeds.
    """
    cells: dict[str, _Cell] = {}
    for of in by_seed(quantities, ACCURACY).values():
        cells |= {cell: _Cell(tuple(values.values())) for cell, values in of.items()}
    for of in by_seed(quantities, DIVERGED).values():
        for cell, steps in of.items():
            cells[cell] = replace(cells.get(cell, _Cell()), diverged=len(steps))
    pairs = [
        (f"injective against linear, {name}", f"{INJECTIVE}, {name}", f"{NOT_INJECTIVE}, {name}")
        for name in FEATURE_MAPS
    ]
    sides = sorted({int(cell.rpartition(" ")[2]) for cell in cells if ", window " in cell})
    pairs += [
        (f"local residual against none, window {side}",
         f"{LABELS[True]}, window {side}", f"{LABELS[False]}, window {side}")
        for side in sides
    ]  # fmt: skip
    pairs += [
        (f"window {large} against {small}",
         f"{LABELS[True]}, window {large}", f"{LABELS[True]}, window {small}")
        for small, large in pairwise(sides)
    ]  # fmt: skip
    found = [
        (what, *_compared(cells[a], cells[b])) for what, a, b in pairs if {a, b} <= cells.keys()
    ]
    words = {True: "better", False: "worse", None: "not told apart"}
    listed = "; ".join(f"{what} {text}: {words[verdict]}" for what, verdict, text in found)
    return Conclusion(
        finding=f"Mean accuracy, 95 % intervals over seeds: {listed}.",
        agrees=together([verdict for _, verdict, _ in found]),
    )


def _compared(one: _Cell, other: _Cell) -> tuple[bool | None, str]:
    """Whether `one` is ahead by more than both intervals; None: not told apart.

    A mechanism of which every training diverges is behind one of which none does.
    """
    text = f"{one.words} against {other.words}"
    if one.diverged or other.diverged:
        if not other.accuracies and not one.diverged:
            return True, text
        return (False if not one.accuracies and not other.diverged else None), text
    (_, low, high), (_, their_low, their_high) = map(
        mean_of_seeds, (one.accuracies, other.accuracies)
    )
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
    variants=("inline", "linear_relu", "linear_exp"),
    run=run,
    conclude=conclude,
)
