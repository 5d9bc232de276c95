"""Accuracy against what it costs: mean over seeds, the best trade-offs, and the level of chance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.derived import mean_of_seeds
from leaderboard.axes import Axis
from leaderboard.blocks import (
    Block,
    Cell,
    Chooser,
    Document,
    Head,
    Panel,
    Paragraph,
    Row,
    Table,
    VariantName,
    prose,
)
from leaderboard.contexts import Context, Size, by_context, slug
from leaderboard.figures import Point, Series, scatter
from leaderboard.format import (
    MISSING,
    Quantity,
    listed,
    percent,
    scale_for,
    whole,
)
from leaderboard.page import Page
from leaderboard.reported import reported_numbers
from leaderboard.results import OUTCOME_WORDS, SIGNS_HELP, Result, View
from leaderboard.standings import EXACTNESS_BADGES

_COSTS: tuple[tuple[str, str, Quantity], ...] = (
    ("latency", "Latency", "s"),
    ("flops", "FLOPs", "flop"),
    ("peak_memory", "Peak memory", "byte"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One variant on one task: all its seeds."""

    variant: str
    seeds: tuple[Result, ...]
    mean: float
    low: float | None
    high: float | None


def _documents(view: View) -> Iterator[Document]:
    blocks: list[Block] = [
        Paragraph(
            (
                (
                    "One small model a variant, trained from several seeds with one fixed "
                    "recipe. The "
                    "cost is that of one attention layer, measured apart. Accuracy on a small task "
                    "tells which mechanisms can learn it, not how they rank on a large one."
                ),
            ),
            "lead",
        )
    ]
    panels = tuple(_panels(view))
    if panels:
        blocks.append(
            Chooser(id="accuracy", facets=("Task", "Machine", "Cost", "Size"), panels=panels)
        )
    else:
        blocks.append(Paragraph(("No accuracy has been measured yet.",)))
    blocks += reported_numbers(view)
    yield Document(
        path="accuracy.html",
        title="Accuracy",
        summary="Accuracy of attention mechanisms against latency, FLOPs and memory.",
        blocks=tuple(blocks),
    )


def trained(results: Sequence[Result], task: str) -> tuple[Trained, ...]:
    """Return the mean over seeds of every variant that finished, best first."""
    runs: dict[str, list[Result]] = {}
    for result in results:
        if result.task == task and result.ok and not result.stale and "accuracy" in result.numbers:
            runs.setdefault(result.variant, []).append(result)
    found: list[Trained] = []
    for variant, seeds in sorted(runs.items()):
        mean, low, high = mean_of_seeds([r.numbers["accuracy"].value for r in seeds])
        found.append(Trained(variant=variant, seeds=tuple(seeds), mean=mean, low=low, high=high))
    return tuple(sorted(found, key=lambda t: (-t.mean, t.variant)))


def _panels(view: View) -> Iterator[Panel]:
    contexts = by_context(view.results)
    for task in sorted(view.tasks):
        for hardware_id in view.machines:
            mine = [r for r in view.results if r.hardware_id == hardware_id and r.task == task]
            done = trained(mine, task)
            failed = [r for r in mine if not r.ok]
            if not done and not failed:
                continue
            for cost in _COSTS:
                for size, costs in _costs(contexts, hardware_id, cost[0]).items():
                    yield _panel(view, task, hardware_id, done, failed, cost, size, costs)


def _costs(
    contexts: Mapping[Context, Mapping[Size, tuple[Result, ...]]], hardware_id: str, metric: str
) -> Mapping[Size, Mapping[str, Result]]:
    """Reference layer, forward, one sequence, default options: a result a variant, a size."""
    for context, sizes in contexts.items():
        if (
            context.hardware_id == hardware_id
            and context.passes == "forward"
            and context.level == "layer"
            and context.batch_policy == "one"
            and not context.causal
        ):
            return {
                size: {
                    r.variant: r
                    for r in results
                    if r.backend == "reference" and not r.options and r.ranked
                    and metric in r.numbers
                }
                for size, results in sizes.items()
                if size.resolution_px is not None
            }  # fmt: skip
    return {}


def _panel(
    view: View,
    task: str,
    hardware_id: str,
    done: Sequence[Trained],
    failed: Sequence[Result],
    cost: tuple[str, str, Quantity],
    size: Size,
    costs: Mapping[str, Result],
) -> Panel:
    metric, title, quantity = cost
    entry = view.tasks[task]
    id_ = slug(f"{task}-{hardware_id}-{metric}-{size.slug}")
    both = [t for t in done if t.variant in costs]
    blocks: list[Block] = [
        Paragraph((*prose(entry.help), f" Chance: {percent(entry.chance)}. {SIGNS_HELP}"), "small")
    ]
    if both:
        points = {t.variant: _point(t, costs[t.variant].numbers[metric].value) for t in both}
        best = _frontier(tuple(points.values()))
        names = [view.title(v) for v, p in points.items() if p in best]
        figure = scatter(
            id_=f"accuracy-{id_}",
            title=f"Accuracy against {title.lower()} of a layer at {size.title}",
            finding=f"No variant is both more accurate and cheaper than {listed(sorted(names))}.",
            x=Axis(title=f"{title}, forward, one layer", quantity=quantity, log=True),
            y=Axis(title=f"Accuracy on {entry.title}", quantity="fraction", log=False),
            series=tuple(
                Series(
                    variant=t.variant, main=True, points=(points[t.variant],),
                    label=view.title(t.variant) + view.sign(t.variant),
                )
                for t in both
            ),
            marks=view.marks,
            frontier=best,
            floor=(entry.chance, "chance") if _chance_is_near(entry.chance, both) else None,
        )  # fmt: skip
        blocks.append(figure)
    blocks.append(_table(view, done, failed, costs, cost, f"{id_}-table"))
    return Panel(
        id=id_,
        title=f"{entry.title}, against {title.lower()}",
        values=(
            (task, entry.title),
            (hardware_id, view.machine_title(hardware_id)),
            (metric, title),
            (size.slug, size.title),
        ),
        blocks=tuple(blocks),
    )


def _chance_is_near(chance: float, done: Sequence[Trained]) -> bool:
    """Draw the line where it does not squeeze the points into a corner; the text says it always."""
    values = [t.mean for t in done]
    return min(values) - chance < 3 * (max(values) - min(values)) + 0.02


def _point(one: Trained, cost: float) -> Point:
    return Point(x=cost, y=one.mean, low=one.low, high=one.high)


def _frontier(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points that none beats in both, cheap first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not found or point.y > found[-1].y:
            found.append(point)
    return tuple(found)


def _table(
    view: View,
    done: Sequence[Trained],
    failed: Sequence[Result],
    costs: Mapping[str, Result],
    cost: tuple[str, str, Quantity],
    id_: str,
) -> Table:
    metric, title, quantity = cost
    scale = scale_for(quantity, [r.numbers[metric].value for r in costs.values()])
    times = [r.numbers["training_time"].value for t in done for r in t.seeds
             if "training_time" in r.numbers]  # fmt: skip
    clock = scale_for("s", times)
    rows: list[Row] = []
    for one in done:
        spent = [
            r.numbers["training_time"].value for r in one.seeds if "training_time" in r.numbers
        ]
        layer = costs.get(one.variant)
        interval = MISSING
        if one.low is not None and one.high is not None:
            interval = f"{100 * one.low:.1f} to {100 * one.high:.1f}"
        rows.append(
            Row(
                (
                    Cell((VariantName(one.variant, view.title(one.variant)), " ",
                          EXACTNESS_BADGES[view.exactness(one.variant)]), one.variant),
                    Cell((f"{100 * one.mean:.1f}",), one.mean),
                    Cell((interval,), one.low, "muted"),
                    Cell((whole(len(one.seeds)),), len(one.seeds)),
                    Cell((MISSING,), tone="muted") if layer is None else
                    Cell((scale.text(layer.numbers[metric].value),), layer.numbers[metric].value),
                    Cell((MISSING,), tone="muted") if not spent else
                    Cell((clock.text(sum(spent) / len(spent)),), sum(spent) / len(spent)),
                )
            )
        )  # fmt: skip
    for result in failed:
        word = OUTCOME_WORDS.get(result.outcome, result.outcome)
        nothing = Cell((MISSING,), tone="muted")
        rows.append(
            Row(
                (
                    Cell((VariantName(result.variant, view.title(result.variant),
                                      f"seed {result.seed}"),), result.variant),
                    Cell((word,), tone="failure"), nothing, nothing, nothing, nothing,
                ),
                "failed",
            )
        )  # fmt: skip
    return Table(
        id=id_,
        caption="Accuracy, mean over seeds",
        heads=(
            Head(title="Variant"),
            Head(title="Accuracy", unit="%", number=True, help="Mean over seeds."),
            Head(title="95 % interval", unit="%", number=True, secondary=True, sortable=False,
                 help="Student's t over seeds."),
            Head(title="Seeds", number=True, secondary=True),
            Head(title=f"{title}, one layer", unit=scale.unit, number=True),
            Head(title="Training", unit=clock.unit, number=True, secondary=True,
                 help="Mean time of one training on this machine."),
        ),
        rows=tuple(rows),
        empty="No accuracy has been measured yet.",
        show_caption=False,
    )  # fmt: skip


PAGE = Page(title="Accuracy", path="accuracy.html", order=5, documents=_documents)
