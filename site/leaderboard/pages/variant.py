"""One document a variant: what it computes, where it comes from, its limits and its results."""

from collections.abc import Iterator

from bench.table import VariantEntry
from leaderboard import badges
from leaderboard.blocks import (
    Block,
    Bullets,
    CodeBlock,
    Disclosure,
    Document,
    Facts,
    Paragraph,
    Section,
)
from leaderboard.definitions import costs, facts, options, snippet, traits
from leaderboard.format import MISSING, count_of, power, whole
from leaderboard.mathematics import formula
from leaderboard.page import Page, RawFile
from leaderboard.pieces import VariantName, prose
from leaderboard.results import EXACTNESS_HELP, View
from leaderboard.standings import EXACTNESS_BADGES
from leaderboard.tables import Cell, Head, Row, Table
from leaderboard.variant_results import measured


def _documents(view: View) -> Iterator[Document]:
    yield _index(view)
    badged = frozenset(file.path for file in badges.files(view))
    for entry in view.variants.values():
        yield Document(
            path=f"variants/{entry.name}.html",
            title=entry.title,
            summary=f"{entry.title}: formula, source, limits and measured results.",
            context="Variant",
            blocks=tuple(_blocks(view, entry, badged)),
        )
    shown = (*view.results, *view.superseded)
    for name in sorted({r.variant for r in shown} - view.variants.keys()):
        yield _gone(view, name)


def _index(view: View) -> Document:
    rows: list[Row] = []
    for entry in view.variants.values():
        mine = [r for r in view.results if r.variant == entry.name]
        timed = sum(r.ok for r in mine)
        exactness = view.exactness(entry.name)
        rows.append(
            Row(
                (
                    Cell((VariantName(entry.name, entry.title),), entry.title),
                    Cell((EXACTNESS_BADGES[exactness],), exactness),
                    Cell((power(entry.order),), entry.order),
                    Cell((entry.family.replace("_", " "),)),
                    Cell((f"{entry.paper.venue} {entry.paper.year}",), entry.paper.year),
                    Cell((whole(timed),), timed)
                    if mine
                    else Cell(("no results yet",), tone="muted"),
                    Cell((whole(len(mine) - timed),), len(mine) - timed)
                    if mine
                    else Cell((MISSING,), tone="muted"),
                )
            )
        )
    table = Table(
        id="variants-table",
        caption="Variants",
        heads=(
            Head(title="Variant"),
            Head(title="Function", help="As seen from softmax attention."),
            Head(title="Order", help="FLOPs of the core in tokens, default options.", ordered=True),
            Head(title="Family", secondary=True),
            Head(title="Source", secondary=True),
            Head(title="Cells measured", number=True),
            Head(title="Failed", number=True, secondary=True),
        ),
        rows=tuple(rows),
        empty="There are no variants in this tree.",
        show_caption=False,
    )
    return Document(
        path="variants/index.html",
        title="Variants",
        summary="Every attention mechanism of the suite.",
        blocks=(
            Paragraph(
                (
                    (
                        f"{count_of(len(view.variants), 'mechanism')}, each one file with a plain "
                        "PyTorch reference that is compared with its authors' code where there "
                        "is any."
                    ),
                ),
                "lead",
            ),
            table,
        ),
    )


def _blocks(view: View, entry: VariantEntry, badged: frozenset[str]) -> Iterator[Block]:
    exactness = view.exactness(entry.name)
    yield Paragraph((EXACTNESS_BADGES[exactness], " ", EXACTNESS_HELP[exactness]))
    yield formula(entry.formula)
    if entry.description:
        yield Disclosure("Symbols and derivation", (CodeBlock(entry.description),))
    yield Facts(tuple(facts(entry)))
    yield Section("use", "How to call it", (CodeBlock(snippet(entry)),))
    if entry.options:
        yield Section("options", "Options", (options(entry),))
    yield Section("cost", "What it costs", tuple(costs(view, entry)))
    yield Section("traits", "Traits", tuple(traits(entry)))
    yield Section("deviations", "Deviations from paper and code", (
        Bullets(tuple(prose(text) for text in entry.deviations))
        if entry.deviations
        else Paragraph(("None known.",)),
    ))  # fmt: skip
    yield Section("results", "Results", tuple(measured(view, entry.name, badged)))


def _files(view: View) -> Iterator[RawFile]:
    yield from badges.files(view)


def _gone(view: View, name: str) -> Document:
    return Document(
        path=f"variants/{name}.html",
        title=name,
        summary=f"{name}: results of a variant that is no longer in the tree.",
        context="Variant",
        blocks=(
            Paragraph(("This variant is no longer in the tree; its results are stale.",), "lead"),
            Section("results", "Results", tuple(measured(view, name, frozenset()))),
        ),
    )


PAGE = Page(
    title="Variants",
    path="variants/index.html",
    order=9,
    documents=_documents,
    files=_files,
    about="Formula, cost, source, limits and results of each.",
)
