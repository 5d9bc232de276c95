"""Rankings: one document for each machine, context and size, and an index for each machine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from leaderboard.addresses import comparison, machine
from leaderboard.blocks import Block, Document, Filter, Notice, Paragraph, Subsection
from leaderboard.choices import CONTEXT_FACETS, Choices
from leaderboard.contexts import (
    LEVEL_WORDS,
    PASSES_WORDS,
    POLICY_WORDS,
    Context,
    slug,
)
from leaderboard.downloads import context_base, links
from leaderboard.format import percent
from leaderboard.leaders import leaders_table
from leaderboard.page import Page
from leaderboard.pieces import Inline, Link
from leaderboard.places import Place, places, usual
from leaderboard.ranking import Group, baseline, grouped, noise_floor, ranks_by
from leaderboard.results import EXACTNESS_HELP, EXACTNESS_TITLES, Result, View
from leaderboard.standings import group_table, quantities


def _documents(view: View) -> Iterator[Document]:
    found = places(view)
    if not found:
        yield _empty()
    else:
        sizes = sorted({p.size for p in found}, key=lambda s: s.order)
        choices = Choices(
            (*CONTEXT_FACETS, "Size"),
            [p.choice for p in found],
            last=[(s.slug, s.short) for s in sizes],
        )
        first = usual(found)
        for place in found:
            document = _ranking(view, place, choices)
            yield document
            if place is first:
                yield replace(
                    document,
                    path="leaderboard.html",
                    title="Leaderboard",
                    context=f"{document.context}: {document.title}",
                    permanent=document.path,
                )
    for hardware_id in view.machines:
        yield _index(view, hardware_id, [p for p in found if p.context.hardware_id == hardware_id])


def _empty() -> Document:
    return Document(
        path="leaderboard.html",
        title="Leaderboard",
        summary="No results yet.",
        blocks=(Paragraph(("No results yet. Measure this machine with ", "nox -s bench", ".")),),
    )


def _ranking(view: View, place: Place, choices: Choices) -> Document:
    context = place.context
    title = f"{place.size.title}, {PASSES_WORDS[context.passes]}"
    return Document(
        path=place.choice.path,
        title=title,
        summary=f"Ranking on {view.machine_title(context.hardware_id)}: {title}.",
        context=view.machine_title(context.hardware_id),
        blocks=tuple(_blocks(view, place, choices)),
    )


def _blocks(view: View, place: Place, choices: Choices) -> Iterator[Block]:
    context, results = place.context, place.results
    yield choices.facets(place.choice)
    yield Paragraph(_conditions(context, results), "small")
    if any(r.busy for r in results):
        yield Notice(
            ("Other work kept the machine busy while some rows were measured; they are marked.",),
            "warning",
        )
    metric, better = ranks_by(context.batch_policy)
    chosen = quantities(results, metric=metric, better=better)
    base = baseline(results, metric)
    groups = grouped(view, results, metric=metric, better=better)
    yield Filter("Show only rows with")
    for group in groups:
        table = group_table(view, group, chosen, id_=group.exactness, baseline=base, full=True)
        help_ = Paragraph((EXACTNESS_HELP[group.exactness],), "small")
        yield Subsection(
            f"{group.exactness}-part", EXACTNESS_TITLES[group.exactness], (help_, table)
        )
    yield Paragraph(tuple(_onward(context, groups, base)))
    yield links(("All rows of this machine and context, at every size,", context_base(context)))


def _onward(
    context: Context, groups: tuple[Group, ...], base: Result | None
) -> Iterator[str | Link]:
    leaders = [p.result for g in groups for p in g.ranked[:2]]
    first = [base] if base else []
    compared = (*first, *(r for r in leaders if r not in first))
    if len(compared) > 1 and context.batch_policy == "one":
        yield Link("Compare the leaders", comparison(compared))
        yield " \N{MIDDLE DOT} "
    yield Link("Every ranking of this machine", f"leaderboard/{slug(context.hardware_id)}.html")
    yield " \N{MIDDLE DOT} "
    yield Link("About this machine", machine(context.hardware_id))


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
            f"{context.width}. Rows that cannot be told apart share a rank, written with an equals "
            f"sign. {known}"
        ),
    )


def _index(view: View, hardware_id: str, found: Sequence[Place]) -> Document:
    title = view.machine_title(hardware_id)
    contexts: Mapping[Context, list[Place]] = {}
    blocks: list[Block] = [
        Paragraph(
            (
                (
                    "Every ranking of this machine, and who leads it. Nothing is ranked across "
                    "machines, types, directions, levels, batches, sizes or kinds of function."
                ),
            ),
            "lead",
        )
    ]
    for place in found:
        contexts.setdefault(place.context, []).append(place)
    for context, mine in contexts.items():
        id_ = f"in-{context.slug}"
        words = f"{LEVEL_WORDS[context.level]}, {POLICY_WORDS[context.batch_policy]}"
        heading = f"{PASSES_WORDS[context.passes].capitalize()}, {words}"
        table = leaders_table(
            view, [(p.size, p.results, p.choice.path) for p in mine], id_=f"{id_}-table",
            policy=context.batch_policy,
        )  # fmt: skip
        note = Paragraph((f"{context.dtype}, {context.width}.",), "small")
        blocks.append(Subsection(id_, heading, (note, table)))
    if not found:
        blocks.append(Paragraph(("This machine has no timed results yet.",)))
    return Document(
        path=f"leaderboard/{slug(hardware_id)}.html",
        title="Rankings of one machine",
        summary=f"Every ranking of {title}, and who leads it.",
        context=title,
        blocks=tuple(blocks),
    )


PAGE = Page(
    title="Leaderboard",
    path="leaderboard.html",
    order=1,
    documents=_documents,
    about="Every context, size and column, with failures.",
)
