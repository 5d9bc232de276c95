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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from attention_impls.registry import load
from attention_impls.spec import AttentionSpec
from attention_impls.variants.inline import FEATURE_MAPS as MAPS
from bench import altered
from bench.altered import linear_with, windowed, windows
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
    changed: dict[str, Scalar] = {"feature_map": name}
    return lambda seed: _learned(study, spec, spec.options, seed, changed)


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
    changed: dict[str, Scalar] = {} if local else {"local_residual": False}
    if whole:
        return lambda seed: study.trained("inline", seed, changed).result.accuracy
    spec = windowed(load("inline"), side)
    chosen = spec.options if local else without_local_options(spec.options)
    return lambda seed: _learned(study, spec, chosen, seed, changed | {"window": side})


def _learned(
    study: Study, spec: AttentionSpec, options: Any, seed: int, changed: dict[str, Scalar]
) -> float:
    """Train a network that is none of the tree's variants; name it by what was changed."""
    of = task(study.task)
    words = ", ".join(f"{name}={value}" for name, value in sorted(changed.items()))
    study.note(f"{spec.name}, {words}, seed {seed}")
    result = learn(
        of,
        Assignment(
            spec=spec, options=options, seed=seed, device=study.device,
            checkpoint=study.place(spec.name, seed, changed, (Path(altered.__file__),)),
        ),
    ).result  # fmt: skip
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

    accuracies: Mapping[int, float] = field(default_factory=dict[int, float])
    """By seed."""
    diverged: int = 0

    @property
    def words(self) -> str:
        mean = f"{100 * fmean(self.accuracies.values()):.1f} %" if self.accuracies else ""
        lost = f"{self.diverged} of {self.diverged + len(self.accuracies)} diverged"
        return " and ".join(part for part in (mean, lost if self.diverged else "") if part)


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Compare what was trained: injective with linear, residual with none, windows.

    By the intervals of the differences, each seed against itself.
    """
    cells = _cells(quantities)
    sides = sorted({int(cell.rpartition(" ")[2]) for cell in cells if ", window " in cell})
    groups = {
        "InLine without local residual against linear attention": [
            (name, f"{INJECTIVE}, {name}", f"{NOT_INJECTIVE}, {name}") for name in FEATURE_MAPS
        ],
        "local residual against none": [
            (f"window {side}", f"{LABELS[True]}, window {side}", f"{LABELS[False]}, window {side}")
            for side in sides
        ],
        "larger windows against smaller ones": [
            (f"{large} against {small}",
             f"{LABELS[True]}, window {large}", f"{LABELS[True]}, window {small}")
            for small, large in pairwise(sides)
        ],
    }  # fmt: skip
    words = {True: "better", False: "worse", None: "not told apart"}
    verdicts: list[bool | None] = []
    parts: list[str] = []
    for group, pairs in groups.items():
        found = [
            (what, *_compared(cells[a], cells[b])) for what, a, b in pairs if {a, b} <= cells.keys()
        ]
        verdicts += [verdict for _, verdict, _ in found]
        listed = ", ".join(f"{what} {text} ({words[verdict]})" for what, verdict, text in found)
        if listed:
            parts.append(f"{group}: {listed}")
    scale = ""
    if sides:
        scale = (
            f"; windows are {sides[0]} to {sides[-1]} tokens a side of a grid of {sides[-1]} x "
            f"{sides[-1]}, where the paper has 7 to 56 of 56 x 56"
        )
    return Conclusion(
        finding=(
            "Mean accuracy over seeds, told apart by the 95 % interval of the differences of each "
            f"seed with itself; {'; '.join(parts)}{scale}."
        ),
        agrees=together(verdicts),
    )


def _cells(quantities: Sequence[Quantity]) -> dict[str, _Cell]:
    cells: dict[str, _Cell] = {}
    for of in by_seed(quantities, ACCURACY).values():
        cells |= {cell: _Cell(values) for cell, values in of.items()}
    for of in by_seed(quantities, DIVERGED).values():
        for cell, steps in of.items():
            cells[cell] = replace(cells.get(cell, _Cell()), diverged=len(steps))
    return cells


def _compared(one: _Cell, other: _Cell) -> tuple[bool | None, str]:
    """Whether `one` is surely ahead; None: not told apart.

    A mechanism of which every training diverges is behind one of which none does.
    """
    text = f"{one.words} against {other.words}"
    if one.diverged or other.diverged:
        if not other.accuracies and not one.diverged:
            return True, text
        return (False if not one.accuracies and not other.diverged else None), text
    seeds = sorted(one.accuracies.keys() & other.accuracies.keys())
    return surely_positive([one.accuracies[s] - other.accuracies[s] for s in seeds]), text


ANALYSIS = Analysis(
    name="ablations",
    title="InLine taken apart",
    question="What do injectivity, feature map, local residual and window contribute?",
    claim=(
        "Injective attention is more accurate than linear attention with every feature map, the "
        "local residual adds to it, and larger windows are better (InLine, tables of ablations)."
    ),
    paper_scale="Swin-T on ImageNet-1K: windows of 7 to 56 tokens a side",
    revision=1,
    variants=("inline", "linear_relu", "linear_exp"),
    run=run,
    conclude=conclude,
)
