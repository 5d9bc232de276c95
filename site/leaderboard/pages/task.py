"""One document a task: data, recipe, chance, every variant with all its seeds."""

from collections.abc import Iterator, Sequence

from bench.table import TaskEntry
from leaderboard.addresses import result_address
from leaderboard.addresses import task as task_address
from leaderboard.blocks import (
    Block,
    Cell,
    Code,
    CodeBlock,
    Disclosure,
    Document,
    Facts,
    Head,
    Inline,
    Link,
    Paragraph,
    Row,
    Section,
    Table,
    VariantName,
    prose,
)
from leaderboard.contexts import slug
from leaderboard.downloads import links, task_base
from leaderboard.format import (
    MISSING,
    count_of,
    listed,
    percent,
    scale_for,
    whole,
)
from leaderboard.page import Page
from leaderboard.results import OUTCOME_WORDS, Result, View
from leaderboard.standings import EXACTNESS_BADGES
from leaderboard.trainings import Trained, accuracy_ranks, of_task, trained, with_results

_MOST_NAMED = 6


def _documents(view: View) -> Iterator[Document]:
    for entry in view.tasks.values():
        yield Document(
            path=task_address(entry.name),
            title=entry.title,
            summary=f"{entry.title}: data, recipe, and the accuracy of every variant.",
            context="Task",
            blocks=tuple(_blocks(view, entry)),
        )


def _blocks(view: View, entry: TaskEntry) -> Iterator[Block]:
    yield Paragraph(prose(entry.help), "lead")
    yield Facts(tuple(_facts(entry)))
    if entry.description:
        yield Disclosure("In the words of its file", (CodeBlock(entry.description),))
    tried = [hardware_id for task, hardware_id in with_results(view) if task == entry.name]
    for hardware_id in tried:
        mine = of_task(view, entry.name, hardware_id)
        done = trained(mine, entry.name)
        failed = [r for r in mine if not r.ok]
        blocks: list[Block] = []
        if done:
            blocks.append(Paragraph((_finding(view, entry, done),), "finding"))
        blocks.append(_table(view, done, failed, f"seeds-{slug(hardware_id)}"))
        yield Section(f"on-{slug(hardware_id)}", view.machine_title(hardware_id), tuple(blocks))
    if not tried:
        yield Paragraph(("No variant has been trained for this task yet.",))
        return
    yield Paragraph((Link("Accuracy against cost", "tradeoff.html"), " \N{MIDDLE DOT} ",
                     Link("All tasks", "accuracy.html")))  # fmt: skip
    yield links(("All rows of this task", task_base(entry.name)))


def _facts(entry: TaskEntry) -> Iterator[tuple[str, Inline]]:
    yield "Identifier", (Code(entry.name),)
    yield "Chance", (f"{percent(entry.chance)} correct by guessing",)
    if entry.test_items is not None:
        step = percent(1 / entry.test_items)
        yield "Test items", (f"{whole(entry.test_items)}; one of them is {step}",)
    yield "Revision", (f"{entry.revision}; older trainings are stale",)
    if entry.source is not None:
        yield "Definition", (Code(entry.source),)


def _finding(view: View, entry: TaskEntry, done: Sequence[Trained]) -> str:
    found = accuracy_ranks(done)
    best = [view.title(t.variant) for t, rank in zip(done, found, strict=True) if rank == 1]
    if len(done) == 1:
        return f"Only {best[0]} was trained: {percent(done[0].mean)}."
    if len(best) == len(done):
        return (
            f"This task cannot tell the {count_of(len(done), 'variant')} apart: all intervals "
            "over the seeds overlap with the best."
        )
    shown = best
    if len(best) > _MOST_NAMED:
        shown = [*best[: _MOST_NAMED - 1], f"{len(best) - _MOST_NAMED + 1} more"]
    verb = "is best" if len(best) == 1 else "are best and cannot be told apart"
    last = done[-1]
    above = percent(max(0.0, last.mean - entry.chance))
    return (
        f"{listed(shown)} {verb}, {percent(done[0].mean)} for the first; "
        f"{view.title(last.variant)} comes last with {percent(last.mean)}, {above} above chance."
    )


def _table(view: View, done: Sequence[Trained], failed: Sequence[Result], id_: str) -> Table:
    times = [r.numbers["training_time"].value for t in done for r in t.seeds
             if "training_time" in r.numbers]  # fmt: skip
    clock = scale_for("s", times)
    found = accuracy_ranks(done)
    nothing = Cell((MISSING,), tone="muted")
    rows: list[Row] = []
    for one, rank in zip(done, found, strict=True):
        spent = [
            r.numbers["training_time"].value for r in one.seeds if "training_time" in r.numbers
        ]
        interval = MISSING
        if one.low is not None and one.high is not None:
            interval = f"{100 * one.low:.1f} to {100 * one.high:.1f}"
        tied = found.count(rank) > 1
        rows.append(
            Row(
                (
                    Cell((f"={rank}" if tied else str(rank),), rank),
                    Cell(
                        (
                            VariantName(one.variant, view.title(one.variant)),
                            " ",
                            EXACTNESS_BADGES[view.exactness(one.variant)],
                        ),
                        one.variant,
                    ),
                    Cell((f"{100 * one.mean:.1f}",), one.mean),
                    Cell((interval,), one.low, "muted"),
                    Cell(tuple(_seeds(one))),
                    Cell((clock.text(sum(spent) / len(spent)),), sum(spent) / len(spent))
                    if spent
                    else nothing,
                )
            )
        )
    for result in failed:
        word = OUTCOME_WORDS.get(result.outcome, result.outcome)
        name = VariantName(result.variant, view.title(result.variant), f"seed {result.seed}")
        cell = Cell((Link(word, result_address(result)),), tone="failure")
        rows.append(
            Row((nothing, Cell((name,), result.variant), cell, nothing, nothing, nothing), "failed")
        )
    return Table(
        id=id_,
        caption="Accuracy, mean over seeds",
        heads=(
            Head(title="Rank", number=True, shape="rank",
                 help="Variants whose intervals overlap share a rank."),
            Head(title="Variant", shape="name"),
            Head(title="Accuracy", unit="%", number=True, help="Mean over seeds."),
            Head(title="95 % interval", unit="%", number=True, secondary=True, sortable=False,
                 help="Student's t over seeds."),
            Head(title="Every seed", unit="%", secondary=True, sortable=False),
            Head(title="Training", unit=clock.unit, number=True, secondary=True,
                 help="Mean time of one training on this machine."),
        ),
        rows=tuple(rows),
        empty="No training has finished.",
        name_column=1,
        show_caption=False,
    )  # fmt: skip


def _seeds(one: Trained) -> Iterator[str | Link]:
    for number, result in enumerate(sorted(one.seeds, key=lambda r: (r.seed or 0, r.case_id))):
        if number:
            yield ", "
        yield Link(f"{100 * result.numbers['accuracy'].value:.1f}", result_address(result))


PAGE = Page(title="Tasks", path="accuracy.html", order=None, documents=_documents)
