"""How every training of a task went, epoch by epoch: one small chart a variant, all its seeds."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from bench.model import Training
from bench.table import Recorded, TaskEntry
from bench.tabulation import recorded
from leaderboard import charts
from leaderboard.contexts import slug
from leaderboard.drawings import Charts
from leaderboard.marks import Mark
from leaderboard.results import View
from leaderboard.trainings import Trained


@lru_cache(maxsize=256)
def _recorded(root: Path, folder: str, variant: str) -> Mapping[str, Recorded]:
    """Read a file once, though several tasks ask for it."""
    return recorded(root, folder, variant)


def trainings_of(view: View, one: Trained) -> tuple[tuple[int, Training], ...]:
    """Return (seed, learning curves) of each of its trainings that kept them."""
    found: list[tuple[int, Training]] = []
    for result in one.seeds:
        folder = f"{result.hardware_id}/{result.run_id}"
        kept = _recorded(view.table.root, folder, result.variant).get(result.case_id)
        if kept is not None and kept.training is not None and result.seed is not None:
            found.append((result.seed, kept.training))
    return tuple(sorted(found, key=lambda pair: pair[0]))


def learning_curves(
    view: View, entry: TaskEntry, hardware_id: str, done: Sequence[Trained]
) -> Charts | None:
    """Return a chart a variant, in the order of `done`; None where no run kept any."""
    curves = {t.variant: trainings_of(view, t) for t in done}
    epochs = max((len(c.losses) for of in curves.values() for _, c in of), default=0)
    if not epochs:
        return None
    seeds = sorted({seed for of in curves.values() for seed, _ in of})
    looks = dict(zip(seeds, charts.looks([None] * len(seeds), {}), strict=True))
    x = charts.scale("epoch", [0.0, float(epochs)], at=(0.0, float(epochs)))
    y = charts.scale("training accuracy", [0.0, 1.0], percent=True)
    return charts.charts(
        id_=slug(f"learning-{entry.name}-{hardware_id}"),
        title="Learning curves",
        note=(
            "Share of the training examples that were answered correctly when they were seen, per "
            "cent, over the epochs; every seed is a line, the dotted line is chance. The test set "
            "is looked at once, after the last epoch: the numbers above each chart, one a seed. "
            "The file also has the losses."
        ),
        members=[
            _member(view, entry, t, curves[t.variant], looks, x, y)
            for t in done
            if curves[t.variant]
        ],
        keys=[(f"seed {seed}", look) for seed, look in looks.items()],
        rows=[
            (view.title(variant), f"seed {seed}, {what}", float(epoch), value, None, None)
            for variant, of in curves.items()
            for seed, training in of
            for what, values in (
                ("training accuracy", training.accuracies),
                ("training loss", training.losses),
            )
            for epoch, value in enumerate(values, start=1)
        ],
        small=True,
    )


def _member(
    view: View,
    entry: TaskEntry,
    one: Trained,
    of: Sequence[tuple[int, Training]],
    looks: Mapping[int, Mark],
    x: charts.Scale,
    y: charts.Scale,
) -> charts.Chart:
    ends = ", ".join(f"seed {seed} {100 * t.accuracies[-1]:.0f} %" for seed, t in of)
    seeds = sorted(one.seeds, key=lambda r: (r.seed or 0, r.case_id))
    tested = ", ".join(f"{100 * r.numbers['accuracy'].value:.1f}" for r in seeds)
    title = f"{view.title(one.variant)}: {tested}"
    return charts.chart(
        title=title,
        description=(
            f"{view.title(one.variant)}: training accuracy over {len(of[0][1].accuracies)} epochs; "
            f"at the end {ends}."
        ),
        x=x,
        y=y,
        lines=[
            charts.Drawn(
                label=f"seed {seed}",
                look=looks[seed],
                points=tuple(
                    (float(epoch), value)
                    for epoch, value in enumerate(training.accuracies, start=1)
                ),
            )
            for seed, training in of
        ],
        level=(entry.chance, "chance"),
        small=True,
    )
