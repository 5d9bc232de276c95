"""Accuracy against what it costs: the best trade-offs, and everything that they beat."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.table import TaskEntry
from leaderboard.addresses import task as task_address
from leaderboard.axes import Axis
from leaderboard.blocks import Block, Chooser, Document, Panel, Paragraph
from leaderboard.choices import Choice, Choices
from leaderboard.contexts import Context, Size, ordered_contexts, slug
from leaderboard.downloads import links, task_base
from leaderboard.figure_data import Point, Series
from leaderboard.figures import scatter
from leaderboard.format import Quantity, listed, percent
from leaderboard.fronts import Candidate, frontier, shared_front
from leaderboard.page import Page
from leaderboard.pieces import Link
from leaderboard.results import SIGNS_HELP, Result, View
from leaderboard.trainings import Trained, of_task, separation, trained, with_results

_LEAD = (
    "Accuracy of one small model a variant, mean over seeds with 95 % interval, against the cost "
    "of one attention layer, measured apart. The line joins what nothing beats in both; who is "
    "beaten only within interval or noise is as good, who is surely beaten is faint."
)
_MOST_NAMED = 6
_SIDES_PX = (224, 512, 1024)
"""Image sides whose costs are shown: few, and always the same, so that addresses last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """A quantity on the horizontal axis."""

    metric: str
    title: str
    quantity: Quantity
    policy: str
    """Batch policy of the results that it is read from."""
    more: bool = False
    """More is better."""


_COSTS = (
    _Cost(metric="latency", title="Latency", quantity="s", policy="one"),
    _Cost(metric="throughput", title="Throughput", quantity="token/s", policy="token_budget",
          more=True),
    _Cost(metric="peak_memory", title="Peak memory", quantity="byte", policy="one"),
    _Cost(metric="flops", title="FLOPs", quantity="flop", policy="one"),
    _Cost(metric="parameters", title="Parameters", quantity="count", policy="one"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    task: str
    hardware_id: str
    """Where the cost was measured."""
    trained_on: str
    """Machine of the trainings."""
    side_px: int
    choice: Choice
    costs: Mapping[str, Mapping[str, Result]]
    """By metric, by variant."""


def _documents(view: View) -> Iterator[Document]:
    found = tuple(_places(view))
    choices = Choices(("Task", "Machine", "Cost at"), [p.choice for p in found])
    intro = Paragraph((_LEAD,), "lead")
    first = _usual(found) if found else None
    for place in found:
        entry = view.tasks[place.task]
        document = Document(
            path=place.choice.path,
            title=f"Trade-off: {entry.title}, cost at {place.side_px} px",
            summary=f"Accuracy on {entry.title} against what it costs.",
            context=view.machine_title(place.hardware_id),
            blocks=(intro, choices.facets(place.choice), *_blocks(view, place)),
        )
        if place is first:
            yield replace(document, path="tradeoff.html", title="Trade-off",
                          context=f"{document.context}: {entry.title}",
                          permanent=document.path)  # fmt: skip
        yield document
    if not found:
        nothing = Paragraph(("No accuracy has been measured beside a cost yet.",))
        yield Document(
            path="tradeoff.html", title="Trade-off", summary=_LEAD, blocks=(intro, nothing)
        )


def _usual(found: Sequence[_Place]) -> _Place:
    """What is shown before anything was chosen: the side at which most variants were measured."""
    same = [p for p in found if (p.task, p.hardware_id) == (found[0].task, found[0].hardware_id)]
    return max(same, key=lambda p: max(len(of) for of in p.costs.values()))


def _places(view: View) -> Iterator[_Place]:
    """Every task beside the costs on every machine; the best covered machine first."""
    tasks = list(dict.fromkeys(task for task, _ in with_results(view)))
    for hardware_id in view.machines:
        costs = {side: _costs(view, hardware_id, side) for side in _SIDES_PX}
        known = {v for found in costs.values() for of in found.values() for v in of}
        chosen = {task: _trained_on(view, task, hardware_id, known) for task in tasks}
        for task in sorted(tasks, key=lambda one: _order(view, one, chosen[one])):
            trained_on = chosen[task]
            done = {t.variant for t in trained(of_task(view, task, trained_on), task)}
            for side, found in costs.items():
                if any(done & of.keys() for of in found.values()):
                    yield _Place(
                        task=task,
                        hardware_id=hardware_id,
                        trained_on=trained_on,
                        side_px=side,
                        choice=Choice(
                            path=f"tradeoff/{slug(task)}/{slug(hardware_id)}/{side}px.html",
                            values=(
                                (task, view.tasks[task].title),
                                (hardware_id, view.machine_title(hardware_id)),
                                (str(side), f"{side} px"),
                            ),
                        ),
                        costs=found,
                    )


def _trained_on(view: View, task: str, hardware_id: str, known: set[str]) -> str:
    """Choose whose trainings stand beside the costs: most variants in common, else this machine's.

    An accuracy belongs to variant, recipe and data; a cost belongs to a machine.
    """
    machines = [machine for one, machine in with_results(view) if one == task]
    return max(
        machines,
        key=lambda machine: (
            len(known & {t.variant for t in trained(of_task(view, task, machine), task)}),
            machine == hardware_id,
            machine,
        ),
    )


def _order(view: View, task: str, trained_on: str) -> float:
    """The task that tells most variants apart first."""
    done = trained(of_task(view, task, trained_on), task)
    share = separation(done).share if done else None
    return -(share or 0.0)


def _costs(view: View, hardware_id: str, side_px: int) -> Mapping[str, Mapping[str, Result]]:
    """Reference layer, forward, default options: a result a variant, for each metric."""
    return {cost.metric: _of_metric(view, hardware_id, side_px, cost) for cost in _COSTS}


def _of_metric(view: View, hardware_id: str, side_px: int, cost: _Cost) -> Mapping[str, Result]:
    for context, sizes in ordered_contexts(view):
        if context.hardware_id == hardware_id and _is_usual(context, cost.policy):
            return {
                r.variant: r
                for size, results in sizes.items()
                if _is_side(size, side_px)
                for r in results
                if r.backend == "reference" and not r.options and r.ranked
                and cost.metric in r.numbers
            }  # fmt: skip
    return {}


def _is_usual(context: Context, policy: str) -> bool:
    return (
        context.passes == "forward"
        and context.level == "layer"
        and context.batch_policy == policy
        and not context.causal
    )


def _is_side(size: Size, side_px: int) -> bool:
    return size.resolution_px == side_px and not size.extra_tokens


def _blocks(view: View, place: _Place) -> Iterator[Block]:
    entry = view.tasks[place.task]
    done = trained(of_task(view, place.task, place.trained_on), place.task)
    chance = f"Chance: {percent(entry.chance)}. {SIGNS_HELP} Names without room are left out. "
    if place.trained_on != place.hardware_id:
        chance += f"Trained on {view.machine_title(place.trained_on)}. "
    yield Paragraph((chance, Link("The task, and every seed", task_address(place.task))), "small")
    panels: list[Panel] = []
    for cost in _COSTS:
        found = place.costs[cost.metric]
        both = [t for t in done if t.variant in found]
        if both:
            panels.append(_panel(view, place, cost, both, found))
    yield Chooser(id="costs", facets=("Against",), panels=tuple(panels))
    yield links(("All rows of this task", task_base(place.task)))


def _panel(
    view: View, place: _Place, cost: _Cost, both: Sequence[Trained], found: Mapping[str, Result]
) -> Panel:
    entry = view.tasks[place.task]
    points = {t.variant: _point(t, found[t.variant].numbers[cost.metric].value) for t in both}
    best = frontier(tuple(points.values()), more=cost.more)
    names = [view.title(v) for v, p in points.items() if p in best]
    candidates = {
        t.variant: Candidate(
            accuracy=t.standing,
            cost=found[t.variant].numbers[cost.metric].standing,
            noise_floor=found[t.variant].noise_floor,
        )
        for t in both
    }
    column = view.columns.get(cost.metric)
    varies = column is not None and column.varies
    front = shared_front(candidates, more=cost.more, varies=varies)
    tied = sorted(view.title(v) for v in front if points[v] not in best)
    figure = scatter(
        id_=slug(f"tradeoff-{place.task}-{place.hardware_id}-{place.side_px}px-{cost.metric}"),
        title=(
            f"Accuracy on {entry.title} against {cost.title.lower()} of a layer at "
            f"{place.side_px} px"
        ),
        finding=(
            f"No variant is both more accurate and {'faster' if cost.more else 'cheaper'} than "
            f"{listed(sorted(names))}."
            + (f" Not surely beaten: {_counted(tied)}." if tied else "")
            + _at_chance(view, entry, [t for t in both if points[t.variant] in best])
        ),
        x=Axis(
            title=f"{cost.title}{', tokens/s' if cost.more else ''}, forward, one layer",
            quantity=cost.quantity,
            # a mechanism without parameters has its place, too
            log=all(point.x > 0 for point in points.values()),
        ),
        y=Axis(title="Accuracy", quantity="fraction", log=False),
        series=tuple(
            Series(
                variant=t.variant,
                main=True,
                points=(points[t.variant],),
                label=view.title(t.variant) + view.sign(t.variant),
            )
            for t in both
        ),
        marks=view.marks,
        frontier=best,
        floor=(entry.chance, "chance") if _chance_is_near(entry.chance, both) else None,
        faded=[n for n, t in enumerate(both) if t.variant not in front],
    )
    return Panel(
        id=cost.metric,
        title=f"Against {cost.title.lower()}",
        values=((cost.metric, cost.title),),
        blocks=(figure,),
    )


def _at_chance(view: View, entry: TaskEntry, best: Sequence[Trained]) -> str:
    """Name who is on the line for being cheap alone: no better than guessing."""
    idle = sorted(
        view.title(t.variant)
        for t in best
        if t.mean <= entry.chance or (t.low is not None and t.low <= entry.chance)
    )
    if not idle:
        return ""
    return f" {listed(idle)} {'is' if len(idle) == 1 else 'are'} no better than chance."


def _chance_is_near(chance: float, done: Sequence[Trained]) -> bool:
    """Draw the line where it does not squeeze the points into a corner; the text says it always."""
    values = [t.mean for t in done]
    return min(values) - chance < 3 * (max(values) - min(values)) + 0.02


def _point(one: Trained, cost: float) -> Point:
    return Point(x=cost, y=one.mean, low=one.low, high=one.high)


def _counted(names: Sequence[str]) -> str:
    if len(names) > _MOST_NAMED:
        return f"{listed([*names[: _MOST_NAMED - 1], f'{len(names) - _MOST_NAMED + 1} more'])}"
    return listed(names)


PAGE = Page(
    title="Trade-off",
    path="tradeoff.html",
    order=5,
    documents=_documents,
    about="Accuracy against latency, throughput, memory, FLOPs and parameters.",
)
