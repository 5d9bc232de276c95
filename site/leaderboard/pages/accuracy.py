"""Accuracy of every variant on every task at a glance, and what the papers report."""

from collections.abc import Iterator, Mapping

from leaderboard.addresses import task as task_address
from leaderboard.blocks import (
    Block,
    Cell,
    Document,
    Head,
    Link,
    Muted,
    Paragraph,
    Row,
    Section,
    Table,
    VariantName,
)
from leaderboard.contexts import slug
from leaderboard.format import MISSING, percent, whole
from leaderboard.page import Page
from leaderboard.reported import reported_numbers
from leaderboard.results import View
from leaderboard.trainings import Trained, accuracy_ranks, of_task, trained, with_results

_LEAD = (
    "Per cent correct, mean over seeds, one fixed recipe a task, nothing tuned per variant. Bold "
    "shares the first rank of its column: intervals over the seeds overlap. There is no average "
    "over tasks. A small task tells which mechanisms can learn it, not how they rank on a large "
    "one."
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
    if not tried:
        blocks.append(Paragraph(("No accuracy has been measured yet.",)))
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
    variants = sorted({variant for of in found.values() for variant in of}, key=view.title)
    rows: list[Row] = []
    for variant in variants:
        cells = [Cell((VariantName(variant, view.title(variant)),), view.title(variant))]
        for task in tasks:
            if variant not in found[task]:
                cells.append(Cell((MISSING,), tone="muted"))
                continue
            one, rank = found[task][variant]
            words = f"{100 * one.mean:.1f}"
            spread = ""
            if one.low is not None and one.high is not None:
                spread = f" \N{PLUS-MINUS SIGN}{50 * (one.high - one.low):.1f}"
            content = (words, Muted(spread)) if spread else (words,)
            cells.append(Cell(content, one.mean, "best" if rank == 1 else "plain"))
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
