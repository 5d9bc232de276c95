"""The full table, one document a machine: a ranking per context, size and kind of function."""

from collections.abc import Iterator

from leaderboard.blocks import (
    Block,
    Chooser,
    Document,
    Inline,
    Link,
    Notice,
    Panel,
    Paragraph,
    Subsection,
)
from leaderboard.contexts import (
    LEVEL_WORDS,
    PASSES_WORDS,
    POLICY_WORDS,
    Context,
    Size,
    by_context,
    slug,
)
from leaderboard.format import percent
from leaderboard.page import Page
from leaderboard.ranking import baseline, grouped, noise_floor
from leaderboard.results import EXACTNESS_HELP, EXACTNESS_TITLES, Result, View
from leaderboard.standings import group_table, quantities

FACETS = ("Passes", "Level", "Batch", "Type", "Width", "Size")


def _documents(view: View) -> Iterator[Document]:
    if not view.machines:
        yield _empty()
        return
    contexts = by_context(view.results)
    for number, hardware_id in enumerate(view.machines):
        chosen = {c: sizes for c, sizes in contexts.items() if c.hardware_id == hardware_id}
        panels = tuple(
            _panel(view, context, size, results)
            for context, sizes in chosen.items()
            for size, results in sizes.items()
        )
        paths = [f"leaderboard/{slug(hardware_id)}.html"]
        # the best covered machine is also what the head of every page links to
        paths += ["leaderboard.html"] if number == 0 else []
        for path in paths:
            yield Document(
                path=path,
                title="Leaderboard",
                summary="Latency, throughput and memory of every variant, ranked with ties.",
                context=view.machine_title(hardware_id),
                blocks=tuple(_blocks(view, hardware_id, panels)),
            )


def _empty() -> Document:
    return Document(
        path="leaderboard.html",
        title="Leaderboard",
        summary="No results yet.",
        blocks=(Paragraph(("No results yet. Measure this machine with ", "nox -s bench", ".")),),
    )


def _blocks(view: View, hardware_id: str, panels: tuple[Panel, ...]) -> Iterator[Block]:
    yield Paragraph(
        (
            (
                "Each table is one ranking: one machine, one type, one direction, one level, one "
                "batch "
                "policy, one size and one kind of function. Rows that cannot be told apart share a "
                "rank, written with an equals sign."
            ),
        ),
        "lead",
    )
    if len(view.machines) > 1:
        yield Paragraph(tuple(_machine_links(view, hardware_id)))
    run_ids = view.machines[hardware_id].run_ids
    if any(view.runs[run_id].run.conditions.busy for run_id in run_ids if run_id in view.runs):
        yield Notice(
            ("A run of this machine was made while other work kept it busy; its rows are marked.",),
            "warning",
        )
    if panels:
        yield Chooser(
            id="leaderboard", facets=FACETS, panels=panels, filter_label="Show only rows with"
        )
    else:
        yield Paragraph(("This machine has no timed results yet.",))


def _machine_links(view: View, current: str) -> Iterator[str | Link]:
    yield "Machine: "
    for number, hardware_id in enumerate(view.machines):
        if number:
            yield " \N{MIDDLE DOT} "
        title = view.machine_title(hardware_id)
        same = hardware_id == current
        yield title if same else Link(title, f"leaderboard/{slug(hardware_id)}.html")


def _panel(view: View, context: Context, size: Size, results: tuple[Result, ...]) -> Panel:
    # where the batch is not 1 it may differ between rows: then tokens per second rank
    metric, better = ("latency", "lower") if context.batch_policy == "one" else (
        "throughput", "higher",
    )  # fmt: skip
    chosen = quantities(results, metric=metric, better="lower" if better == "lower" else "higher")
    base = baseline(results, metric)
    panel_id = slug(f"{context.slug}-{size.slug}")
    blocks: list[Block] = [Paragraph(_conditions(context, results), "small")]
    for group in grouped(view, results, metric=metric, better=chosen.better):
        table_id = f"{panel_id}-{group.exactness}"
        table = group_table(view, group, chosen, id_=table_id, baseline=base, full=True)
        blocks.append(
            Subsection(
                f"{table_id}-part",
                EXACTNESS_TITLES[group.exactness],
                (Paragraph((EXACTNESS_HELP[group.exactness],), "small"), table),
            )
        )
    return Panel(
        id=panel_id,
        title=f"{size.title}, {PASSES_WORDS[context.passes]}",
        values=(
            (context.passes, PASSES_WORDS[context.passes]),
            (context.level, LEVEL_WORDS[context.level]),
            (context.batch_policy, POLICY_WORDS[context.batch_policy]),
            (context.dtype, context.dtype),
            (f"h{context.heads}d{context.head_dim}{'c' if context.causal else ''}", context.width),
            (size.slug, size.title),
        ),
        blocks=tuple(blocks),
    )


def _conditions(context: Context, results: tuple[Result, ...]) -> Inline:
    floor = noise_floor(results)
    known = (
        f"Values closer than {percent(floor)} are within the noise of the run."
        if floor is not None
        else "The noise floor of the run is not known: rows are told apart by intervals alone."
    )
    return (
        (
            f"{context.dtype}, {LEVEL_WORDS[context.level]}, {POLICY_WORDS[context.batch_policy]}, "
            f"{context.width}. {known}"
        ),
    )


PAGE = Page(title="Leaderboard", path="leaderboard.html", order=1, documents=_documents)
