"""The answer first: choose a machine, passes and a size; read what is fastest, why and how sure."""

from collections.abc import Iterator

from leaderboard.blocks import (
    Block,
    Cards,
    Cell,
    Chooser,
    CodeBlock,
    Document,
    Head,
    Inline,
    Link,
    Panel,
    Paragraph,
    Piece,
    Row,
    Section,
    Strong,
    Subsection,
    Table,
)
from leaderboard.contexts import PASSES_WORDS, Context, Size, by_context, slug
from leaderboard.format import count_of, day, listed, measure, percent, whole
from leaderboard.page import Page
from leaderboard.provenance import failure_words
from leaderboard.ranking import Group, baseline, grouped, noise_floor
from leaderboard.results import EXACTNESS_TITLES, Exactness, Result, View
from leaderboard.standings import group_table, quantities

_OF: dict[Exactness, str] = {
    "exact": "exact softmax attention",
    "approximate": "the approximations of softmax attention",
    "own": "the other mechanisms",
}


def _documents(view: View) -> Iterator[Document]:
    yield Document(
        path="index.html",
        title="Which attention is fastest, and how sure is that?",
        summary="Measured latency, memory, FLOPs and accuracy of attention mechanisms.",
        blocks=tuple(_blocks(view)),
    )


def _blocks(view: View) -> Iterator[Block]:
    yield Paragraph(
        (
            (
                f"Reference implementations of "
                f"{count_of(len(view.variants), 'attention mechanism')}, "
                "timed over image resolutions and sequence lengths. Every number leads to its "
                "case, "
                "its run and the command that repeats it."
            ),
        ),
        "lead",
    )
    panels = tuple(_panels(view))
    if panels:
        yield Chooser(id="answer", facets=("Machine", "Passes", "Size"), panels=panels)
    else:
        yield Paragraph((Strong("No results yet."), " Two lines measure the machine at hand:"))
        yield CodeBlock("python -m pip install nox\nnox -s bench")
    yield Section("more", "All views", (Cards(tuple(_links())),))
    yield Section("coverage", "What has been measured", (_coverage(view),))


def _panels(view: View) -> Iterator[Panel]:
    contexts = by_context(view.results)
    order = {hardware_id: n for n, hardware_id in enumerate(view.machines)}
    asked = {
        context: sizes
        for context, sizes in contexts.items()
        if context.level == "layer" and context.batch_policy == "one" and not context.causal
    }
    # one type and width a machine: the first in the order of the contexts
    first: dict[tuple[str, str], Context] = {}
    for context in asked:
        first.setdefault((context.hardware_id, context.passes), context)
    for context in sorted(first.values(), key=lambda c: (order[c.hardware_id], c.order)):
        for size, results in asked[context].items():
            yield _panel(view, context, size, results)


def _panel(view: View, context: Context, size: Size, results: tuple[Result, ...]) -> Panel:
    chosen = quantities(results, metric="latency", better="lower")
    base = baseline(results, "latency")
    groups = grouped(view, results, metric="latency", better="lower")
    panel_id = slug(f"{context.hardware_id}-{context.passes}-{size.slug}")
    blocks: list[Block] = [
        Paragraph(_answer(view, groups, base), "finding"),
        Paragraph(_how_sure(context, results), "small"),
    ]
    for group in groups:
        table_id = f"{panel_id}-{group.exactness}"
        table = group_table(view, group, chosen, id_=table_id, baseline=base, full=False)
        blocks.append(Subsection(f"{table_id}-part", EXACTNESS_TITLES[group.exactness], (table,)))
    page = f"leaderboard/{slug(context.hardware_id)}.html#{slug(f'{context.slug}-{size.slug}')}"
    blocks.append(Paragraph((Link("All columns and the provenance of each row", page),)))
    return Panel(
        id=panel_id,
        title=f"{size.title}, {PASSES_WORDS[context.passes]}",
        values=(
            (context.hardware_id, view.machine_title(context.hardware_id)),
            (context.passes, PASSES_WORDS[context.passes]),
            (size.slug, size.title),
        ),
        blocks=tuple(blocks),
    )


def _answer(view: View, groups: tuple[Group, ...], base: Result | None) -> Inline:
    pieces: list[Piece] = []
    for group in groups:
        ranked = group.ranked
        if not ranked:
            words = sorted({failure_words(p.result) for p in group.placed if not p.result.ok})
            why = f": {listed(words)}" if words else ""
            pieces.append(f"Of {_OF[group.exactness]} none has a ranked result here{why}. ")
            continue
        if len(group.placed) == 1:
            pieces.append(f"Of {_OF[group.exactness]} only ")
        else:
            pieces.append(f"Of {_OF[group.exactness]} ")
        best = [p for p in ranked if p.rank == 1]
        pieces.append(Strong(listed(_title(view, p.result) for p in best)))
        latency = measure("s", best[0].result.numbers["latency"].value)
        if len(group.placed) == 1:
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
    if best.case_id == base.case_id:
        others = [r for r in leaders if r is not best and "flops" in r.numbers]
        if not others or "flops" not in best.numbers:
            return
        other = min(others, key=lambda r: (r.numbers["latency"].value, r.case_id))
    else:
        other = base
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
    yield Link("Leaderboard", "leaderboard.html"), "Every context, size and column, with failures."
    yield Link("Scaling", "scaling.html"), "Latency and throughput against tokens and resolution."
    yield Link("Memory", "memory.html"), "Measured, predicted, and the most tokens that fit."
    yield Link("FLOPs", "flops.html"), "By formula, by torch and by fvcore, with MACs beside."
    yield Link("Accuracy", "accuracy.html"), "Accuracy against what it costs."
    yield Link("Variants", "variants/index.html"), "Formula, source, limits and results of each."
    yield Link("Machines", "machines/index.html"), "Environment, ceilings, noise and runs of each."
    yield Link("Methodology", "methodology.html"), "What is timed, what is not, and what ties mean."
    yield Link("Data", "data.html"), "Every number as CSV and JSON, with checksums."


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


PAGE = Page(title="Home", path="index.html", order=0, documents=_documents)
