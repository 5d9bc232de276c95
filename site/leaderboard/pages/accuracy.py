"""Accuracy of every variant on every task at a glance, and what the papers report."""

from collections.abc import Iterator, Mapping

from leaderboard.addresses import task as task_address
from leaderboard.blocks import Block, Document, Paragraph, Section
from leaderboard.contexts import slug
from leaderboard.format import MISSING, count_of, per_cent, percent, whole
from leaderboard.page import Page
from leaderboard.pieces import Link, Muted, VariantName
from leaderboard.reported import reported_numbers
from leaderboard.results import View
from leaderboard.tables import Cell, Head, Row, Table
from leaderboard.trainings import (
    Separation,
    Trained,
    accuracy_ranks,
    of_task,
    separation,
    trained,
    with_results,
)

_LEAD = (
    "Per cent correct, mean over seeds, one fixed recipe a task, nothing tuned per variant. Bold "
    "shares the first rank of its column: intervals over the seeds overlap; a column without bold "
    "cannot rank its variants. There is no average over tasks. A small task tells which mechanisms "
    "can learn it, not how they rank on a large one."
)


def _documents(view: View) -> Iterator[Document]:
    blocks: list[Block] = [Paragraph((_LEAD,), "lead")]
    tried = with_results(view)
    for hardware_id in view.machines:
        tasks = [task for task, machine in tried if machine == hardware_id]
        if tasks:
            title = view.machine_title(hardware_id)
            table = _matrix(view, hardware_id, tasks)
            blocks.append(Section(f"on-{slug(hardware_id)}", title, (table,)))
    if tried:
        blocks.append(Section("separation", "Which tasks separate", tuple(_separations(view))))
    else:
        blocks.append(Paragraph(("No accuracy has been measured yet.",)))
    blocks.append(
        Paragraph(
            (
                Link("Why they are as accurate as they are", "why.html"),
                " \N{MIDDLE DOT} ",
                Link("Accuracy against cost", "tradeoff.html"),
            )
        )
    )
    blocks.append(Section("tasks", "Tasks", (_tasks(view),)))
    blocks += reported_numbers(view)
    yield Document(
        path="accuracy.html",
        title="Accuracy",
        summary="Accuracy of attention mechanisms on every task.",
        blocks=tuple(blocks),
    )


def _matrix(view: View, hardware_id: str, tasks: list[str]) -> Table:
    found: dict[str, Mapping[str, tuple[Trained, int]]] = {}
    for task in tasks:
        done = trained(of_task(view, task, hardware_id), task)
        ranked = zip(done, accuracy_ranks(done), strict=True)
        found[task] = {t.variant: (t, rank) for t, rank in ranked}
    all_tied = {
        task: len(of) > 1 and {rank for _, rank in of.values()} == {1} for task, of in found.items()
    }
    variants = sorted(
        {variant for of in found.values() for variant in of},
        key=lambda name: view.title(name).casefold(),
    )
    rows: list[Row] = []
    for variant in variants:
        cells = [Cell((VariantName(variant, view.title(variant)),), view.title(variant))]
        for task in tasks:
            if variant not in found[task]:
                cells.append(Cell((MISSING,), tone="muted"))
                continue
            one, rank = found[task][variant]
            words = per_cent(one.mean)
            half = one.half_width
            spread = "" if half is None else f" \N{PLUS-MINUS SIGN}{per_cent(half)}"
            content = (words, Muted(spread)) if spread else (words,)
            best = rank == 1 and not all_tied[task]
            cells.append(Cell(content, one.mean, "best" if best else "plain"))
        rows.append(Row(tuple(cells)))
    return Table(
        id=f"accuracies-{slug(hardware_id)}",
        caption="Accuracy by task, per cent, with half the 95 % interval",
        heads=(
            Head(title="Variant", shape="name"),
            *(Head(title=view.tasks[task].title, number=True) for task in tasks),
        ),
        rows=tuple(rows),
        empty="No training has finished.",
        sticky=True,
    )


def _separations(view: View) -> Iterator[Block]:
    """Which tasks tell variants apart, and by how much: those that tell most first."""
    found = [
        (task, hardware_id, separation(done))
        for task, hardware_id in with_results(view)
        if (done := trained(of_task(view, task, hardware_id), task))
    ]
    several = len({hardware_id for _, hardware_id, _ in found}) > 1
    found.sort(key=lambda one: (-(one[2].share or 0.0), one[0], one[1]))
    compared = [one for one in found if one[2].pairs]
    able = [one for one in compared if one[2].separates]
    if compared:
        words = f"{len(able)} of {count_of(len(compared), 'task')} tell some variants apart"
        if able:
            best, _, parted = able[0]
            words += (
                f"; {view.tasks[best].title} separates most: {percent(parted.share or 0.0)} of the "
                "pairs"
            )
        yield Paragraph((f"{words}.",), "finding")
    yield Table(
        id="separations",
        caption="How well each task tells variants apart",
        heads=(
            Head(title="Task", shape="name"),
            *((Head(title="Machine", secondary=True),) if several else ()),
            Head(title="Variants", number=True, secondary=True),
            Head(title="Pairs told apart", unit="%", number=True,
                 help="Pairs of variants whose 95 % intervals over the seeds do not overlap."),
            Head(title="Best to worst", unit="points", number=True, help="Of the means."),
            Head(title="Half interval", unit="points", number=True, secondary=True,
                 help="Median over the variants: differences below about twice this are noise."),
            Head(title="So", secondary=True, sortable=False),
        ),
        rows=tuple(
            Row(
                (
                    Cell((Link(view.tasks[task].title, task_address(task)),),
                         view.tasks[task].title),
                    *((Cell((view.machine_title(hardware_id),)),) if several else ()),
                    Cell((whole(one.variants),), one.variants),
                    Cell((MISSING,) if one.share is None else (f"{100 * one.share:.0f}",),
                         one.share),
                    Cell((f"{100 * one.spread:.1f}",), one.spread),
                    Cell((MISSING,) if one.half_width is None else (f"{100 * one.half_width:.1f}",),
                         one.half_width),
                    Cell((_verdict(one),)),
                )
            )
            for task, hardware_id, one in found
        ),
        empty="No training has finished.",
        show_caption=False,
    )  # fmt: skip


def _verdict(one: Separation) -> str:
    if not one.pairs:
        return "too few seeds to tell"
    if not one.separates:
        return "separates none: a tie"
    return "separates" if one.told_apart * 2 > one.pairs else "separates some"


def _tasks(view: View) -> Table:
    return Table(
        id="tasks-table",
        caption="Tasks",
        heads=(
            Head(title="Task"),
            Head(title="Chance", number=True),
            Head(title="Test items", number=True, secondary=True),
            Head(title="What it is", secondary=True, sortable=False),
        ),
        rows=tuple(
            Row(
                (
                    Cell((Link(t.title, task_address(t.name)),), t.title),
                    Cell((percent(t.chance),), t.chance),
                    Cell((MISSING if t.test_items is None else whole(t.test_items),), t.test_items),
                    Cell((t.help,)),
                )
            )
            for t in view.tasks.values()
        ),
        empty="There are no tasks in this tree.",
        show_caption=False,
    )


PAGE = Page(
    title="Accuracy",
    path="accuracy.html",
    order=8,
    documents=_documents,
    about="Every variant on every task, with every seed.",
)
