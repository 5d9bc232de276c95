"""The answer first: what do you have, what do you need; read what is fastest, why and how sure."""

from collections.abc import Iterator, Sequence

from leaderboard import page as page_files
from leaderboard.answers import contexts_of, files, kinds
from leaderboard.blocks import (
    Block,
    Bullets,
    Cards,
    CodeBlock,
    Document,
    Island,
    Paragraph,
    Section,
    Subsection,
)
from leaderboard.contexts import PASSES_WORDS, Context, Size, slug
from leaderboard.format import count_of, day, listed, percent, whole
from leaderboard.leaders import leaders_table
from leaderboard.page import Page
from leaderboard.pieces import Inline, Link, Strong
from leaderboard.places import Place, places, usual
from leaderboard.ranking import Group, baseline, grouped, noise_floor
from leaderboard.results import EXACTNESS_TITLES, Result, View
from leaderboard.standings import group_table, quantities
from leaderboard.tables import Cell, Head, Row, Table
from leaderboard.verdicts import reason, verdicts

_MOST_ROWS = 10


def _documents(view: View) -> Iterator[Document]:
    yield Document(
        path="index.html",
        title="Which attention is fastest, and how sure is that?",
        summary="Measured latency, memory, FLOPs and accuracy of attention mechanisms.",
        blocks=tuple(_blocks(view)),
    )


def _blocks(view: View) -> Iterator[Block]:
    measured = len({result.variant for result in view.results if result.ok} & set(view.variants))
    counted = "all of them" if measured == len(view.variants) else f"{measured} of them"
    yield Paragraph(
        (
            (
                f"{count_of(len(view.variants), 'attention mechanism')}, {counted} measured. Every "
                "number leads to its case, its run and the command that repeats it."
            ),
        ),
        "lead",
    )
    found = [p for p in places(view) if _is_asked(p.context)]
    if found:
        yield from _answers(view, found)
    elif places(view):
        yield Paragraph(
            ("No layer has been timed one sequence at a time yet. ",
             Link("What has been timed", "leaderboard.html"))
        )  # fmt: skip
    else:
        yield Paragraph((Strong("No results yet."), " Two lines measure the machine at hand:"))
        yield CodeBlock("python -m pip install nox\nnox -s bench")
    yield Section("more", "All views", (Cards(tuple(_links())),))
    yield Section("coverage", "What has been measured", (_coverage(view),))


def _is_asked(context: Context) -> bool:
    return context.level == "layer" and context.batch_policy == "one" and not context.causal


def _answers(view: View, found: list[Place]) -> Iterator[Block]:
    place = usual(found)
    context = place.context
    offered = contexts_of(view, layers_only=True)
    mine = next(
        c for c in offered
        if (c["machine"], c["context"]) == (slug(context.hardware_id), context.slug)
    )  # fmt: skip
    family = mine["families"][0]
    yield Island(
        id="answer",
        scripts=("answers.js", "choose.js"),
        data={
            "contexts": offered,
            "kinds": kinds(),
            "start": {
                "machine": mine["machine"],
                "context": mine["context"],
                "along": family["key"],
                "at": family["usual"],
            },
        },
        blocks=tuple(_answer_blocks(view, place)),
    )
    sizes = [(p.size, p.results, p.choice.path) for p in found if p.context == context]
    title = view.machine_title(context.hardware_id)
    few = _measured_by_few(sizes)
    yield Section(
        "sizes",
        "The answer at every measured size",
        (
            Paragraph(
                (
                    f"{title}, {PASSES_WORDS[context.passes]}, {context.dtype}, {context.width}. ",
                    Link("Every other choice", f"leaderboard/{slug(context.hardware_id)}.html"),
                ),
                "small",
            ),
            *((Paragraph((few,), "small"),) if few else ()),
            leaders_table(view, sizes, id_="sizes-table", policy="one"),
        ),
    )


def _measured_by_few(sizes: Sequence[tuple[Size, tuple[Result, ...], str]]) -> str | None:
    """Name the sizes at which many were not measured: who leads there, leads few."""
    most = max(len(results) for _, results, _ in sizes)
    few = [(size, len(results)) for size, results, _ in sizes if 2 * len(results) < most]
    if not few:
        return None
    least, largest = min(n for _, n in few), max(n for _, n in few)
    number = whole(least) if least == largest else f"{whole(least)} to {whole(largest)}"
    return (
        f"At {listed(size.short for size, _ in few)} only {number} of {whole(most)} executions "
        "were measured: who leads there leads those."
    )


def _answer_blocks(view: View, place: Place) -> Iterator[Block]:
    context, results = place.context, place.results
    chosen = quantities(results, metric="latency", better="lower")
    base = baseline(results, "latency")
    groups = grouped(view, results, metric="latency", better="lower")
    title = f"{place.size.title}, {PASSES_WORDS[context.passes]}"
    blocks: list[Block] = [
        Paragraph(
            (
                f"Measured on {view.machine_title(context.hardware_id)}. ",
                "On another machine the order can be another.",
            ),
            "small",
        ),
        Bullets(verdicts(view, groups), "finding"),
        Paragraph(
            (
                f"{reason(view, groups, base)} Speed says nothing about accuracy: ".lstrip(),
                Link("Trade-off", "tradeoff.html"),
                " shows both.",
            ),
        ),
        Paragraph(_how_sure(place), "small"),
    ]
    for group in groups:
        few = Group(exactness=group.exactness, placed=group.placed[:_MOST_ROWS])
        table = group_table(view, few, chosen, id_=group.exactness, baseline=base, full=False)
        more = len(group.placed) - len(few.placed)
        rest = (Paragraph((f"{whole(more)} more rows are not shown here.",), "small"),)
        blocks.append(
            Subsection(
                f"{group.exactness}-part",
                EXACTNESS_TITLES[group.exactness],
                (table, *(rest if more else ())),
            )
        )
    words = "All columns, all rows, and the provenance of each"
    blocks.append(Paragraph((Link(words, place.choice.path),)))
    yield Section("now", title, tuple(blocks))


def _how_sure(place: Place) -> Inline:
    context, results = place.context, place.results
    floor = noise_floor(results)
    timed = [r.numbers["latency"] for r in results if r.ok and "latency" in r.numbers]
    rounds = sorted({n.rounds for n in timed})
    patches = f", {place.size.patches}" if place.size.patches else ""
    words = [f"{context.dtype}, layer with projections, 1 sequence, {context.width}{patches}."]
    if rounds:
        words.append(
            f"Each row: {listed(whole(n) for n in rounds)} rounds, each in a new process in "
            "shuffled order; intervals are 95 % of the round medians."
        )
    words.append(
        f"Repeating the very same case moved its latency by up to {percent(floor)} (nine in ten "
        "comparisons); rows closer than that, or with overlapping intervals, share a rank."
        if floor is not None
        else "The noise floor of this run is not known; rows with overlapping intervals share a "
        "rank."
    )
    if any(r.busy for r in results):
        words.append("The machine was busy with other work during the run.")
    return (" ".join(words),)


def _links() -> Iterator[tuple[Link, str]]:
    for found in page_files.pages():
        if found.about is not None:
            yield Link(found.title, found.path), found.about


def _coverage(view: View) -> Table:
    rows: list[Row] = []
    for hardware_id, machine in view.machines.items():
        mine = [r for r in view.results if r.hardware_id == hardware_id]
        failed = sum(not r.ok for r in mine)
        newest = view.runs.get(machine.run_ids[0]) if machine.run_ids else None
        floor = None if newest is None else newest.noise_floor
        duty = None if newest is None else newest.duty
        rows.append(
            Row(
                (
                    Cell((Link(view.machine_title(hardware_id),
                               f"machines/{slug(hardware_id)}.html"),), hardware_id),
                    Cell((day(newest.run.created) if newest else "never",)),
                    Cell((newest.run.plan if newest else "",)),
                    Cell((whole(len(mine) - failed),), len(mine) - failed),
                    Cell((whole(failed),), failed),
                    Cell((percent(floor) if floor is not None else "not known",), floor),
                    Cell((percent(duty) if duty is not None else "not known",), duty),
                )
            )
        )  # fmt: skip
    return Table(
        id="coverage-table",
        caption="Machines and their newest run",
        heads=(
            Head(title="Machine"),
            Head(title="Last run"),
            Head(title="Plan", secondary=True),
            Head(title="Cells measured", number=True),
            Head(title="Cells failed", number=True, secondary=True,
                 help="Unsupported, out of memory, timed out, incorrect, crashed or not run."),
            Head(title="Noise floor", number=True, secondary=True,
                 help="Nine in ten repetitions of the same case differ by less."),
            Head(title="Duty", number=True, secondary=True,
                 help="Time inside measured calls over wall time."),
        ),
        rows=tuple(rows),
        empty="No run has been recorded.",
        show_caption=False,
        sortable=False,
    )  # fmt: skip


PAGE = Page(title="Home", path="index.html", order=0, documents=_documents, files=files)
