"""The answer first: what do you have, what do you need; read what is fastest, why and how sure."""

from collections.abc import Iterator

from leaderboard import page as page_files
from leaderboard.answers import OF_KIND, contexts_of, files, kinds
from leaderboard.blocks import (
    Block,
    Cards,
    Cell,
    CodeBlock,
    Document,
    Head,
    Inline,
    Island,
    Link,
    Paragraph,
    Piece,
    Row,
    Section,
    Strong,
    Subsection,
    Table,
)
from leaderboard.contexts import PASSES_WORDS, Context, slug
from leaderboard.format import count_of, day, listed, measure, percent, whole
from leaderboard.leaders import leaders_table
from leaderboard.page import Page
from leaderboard.pages.leaderboard import Place, places, usual
from leaderboard.provenance import failure_words
from leaderboard.ranking import Group, baseline, grouped, noise_floor
from leaderboard.results import EXACTNESS_TITLES, Result, View
from leaderboard.standings import group_table, quantities

_MOST_NAMED = 3
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
    yield Paragraph(
        (
            (
                f"Reference implementations of "
                f"{count_of(len(view.variants), 'attention mechanism')}, {measured} of them "
                "measured so far, over image resolutions and sequence lengths. Every number leads "
                "to its case, its run and the command that repeats it."
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
            leaders_table(view, sizes, id_="sizes-table", policy="one"),
        ),
    )


def _answer_blocks(view: View, place: Place) -> Iterator[Block]:
    context, results = place.context, place.results
    chosen = quantities(results, metric="latency", better="lower")
    base = baseline(results, "latency")
    groups = grouped(view, results, metric="latency", better="lower")
    title = f"{place.size.title}, {PASSES_WORDS[context.passes]}"
    blocks: list[Block] = [
        Paragraph((f"{view.machine_title(context.hardware_id)}.",), "small"),
        Paragraph(_answer(view, groups, base), "finding"),
        Paragraph(_how_sure(context, results), "small"),
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


def _answer(view: View, groups: tuple[Group, ...], base: Result | None) -> Inline:
    pieces: list[Piece] = []
    for group in groups:
        ranked = group.ranked
        if not ranked:
            words = sorted({failure_words(p.result) for p in group.placed if not p.result.ok})
            why = f": {listed(words)}" if words else ""
            pieces.append(f"Of {OF_KIND[group.exactness]} none has a ranked result here{why}. ")
            continue
        only = "only " if len(group.placed) == 1 else ""
        pieces.append(f"Of {OF_KIND[group.exactness]} {only}")
        best = [_title(view, p.result) for p in ranked if p.rank == 1]
        shown = best
        if len(best) > _MOST_NAMED:
            shown = [*best[: _MOST_NAMED - 1], f"{len(best) - _MOST_NAMED + 1} more"]
        pieces.append(Strong(listed(shown)))
        latency = measure("s", ranked[0].result.numbers["latency"].value)
        if only:
            pieces.append(f" was measured: {latency}. ")
            continue
        verb = "is fastest" if len(best) == 1 else "are fastest and cannot be told apart"
        pieces.append(f" {verb}: {latency}{'' if len(best) == 1 else ' for the first'}. ")
    pieces += _reason(view, groups, base)
    return tuple(pieces)


def _reason(view: View, groups: tuple[Group, ...], base: Result | None) -> Iterator[Piece]:
    """Why the fastest of all differs from exact softmax: its arithmetic and what bounds it."""
    leaders = [g.ranked[0].result for g in groups if g.ranked]
    if not leaders or base is None:
        return
    best = min(leaders, key=lambda r: (r.numbers["latency"].value, r.case_id))
    other = base
    if best.case_id == base.case_id:
        others = [r for r in leaders if r is not best]
        if not others:
            return
        other = min(others, key=lambda r: (r.numbers["latency"].value, r.case_id))
    if "flops" not in best.numbers or "flops" not in other.numbers:
        return
    share = best.numbers["flops"].value / other.numbers["flops"].value
    yield (
        f"{_title(view, best)} does {measure('ratio', share)} the arithmetic of "
        f"{_title(view, other)}"
    )
    efficiency = best.numbers.get("efficiency")
    if efficiency is None:
        yield "."
        return
    bound = f", bound by {efficiency.bound}" if efficiency.bound else ""
    yield f" and reaches {percent(efficiency.value)} of what this machine can do{bound}."


def _how_sure(context: Context, results: tuple[Result, ...]) -> Inline:
    floor = noise_floor(results)
    timed = [r.numbers["latency"] for r in results if r.ok and "latency" in r.numbers]
    rounds = sorted({n.rounds for n in timed})
    words = [f"{context.dtype}, layer with projections, 1 sequence, {context.width}."]
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


def _title(view: View, result: Result) -> str:
    return view.title(result.variant) + (f" ({result.detail})" if result.detail else "")


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
            Head(title="Cells failed", number=True,
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
