"""Numbers copied from papers, as a part of a page: never mixed with what was measured."""

from collections.abc import Iterator, Mapping

from bench.table import ReportedNumber
from leaderboard.blocks import Block, Disclosure, Paragraph, Section
from leaderboard.format import MISSING, count_of, significant
from leaderboard.pieces import External, Link, Muted, Piece, VariantName
from leaderboard.results import View
from leaderboard.tables import Cell, Head, Row, Table

_SHOWN = ("parameters", "macs", "imagenet1k_top1")
"""Quantities that have a column; `Papers, checked` has the others."""


def reported_numbers(view: View) -> Iterator[Block]:
    """Numbers copied from papers: apart, and named as such."""
    numbers = view.table.reported
    if not numbers:
        return
    models: dict[tuple[str, str, str, int], dict[str, ReportedNumber]] = {}
    for number in numbers:
        if number.quantity not in _SHOWN:
            continue
        key = (number.variant, number.paper, number.model, number.resolution_px)
        models.setdefault(key, {})[number.quantity] = number
    rows = tuple(_reported_row(view, models[key]) for key in sorted(models))
    yield Section(
        "reported",
        "Reported by the authors",
        (
            Paragraph(
                (
                    (
                        f"{count_of(len(rows), 'configuration')} of whole models, copied from "
                        f"papers "
                        "and their code. They were not measured here and stand in no ranking. "
                    ),
                    Link("Beside the published code and ours", "papers-checked.html"),
                    ".",
                )
            ),
            Disclosure("Show the reported numbers", (_reported_table(rows),)),
        ),
    )


def _reported_table(rows: tuple[Row, ...]) -> Table:
    return Table(
        id="reported-table",
        caption="Numbers reported by the authors",
        heads=(
            Head(title="Variant"),
            Head(title="Model"),
            Head(title="Side", unit="px", number=True, secondary=True),
            Head(title="Parameters", unit="millions", number=True, secondary=True),
            Head(title="Forward", unit="GMACs", number=True),
            Head(title="ImageNet-1k", unit="top-1, %", number=True),
            Head(title="Source", secondary=True),
        ),
        rows=rows,
        empty="",
        show_caption=False,
    )


def _reported_row(view: View, found: Mapping[str, ReportedNumber]) -> Row:
    first = next(iter(found.values()))
    sources = dict.fromkeys((n.table, n.url) for n in found.values())
    notes = dict.fromkeys(n.note for n in found.values() if n.note)
    source: list[Piece] = []
    for table, url in sources:
        source += [*((", ",) if source else ()), External(table, url)]
    source += [Muted(f" {note}") for note in notes]
    return Row(
        (
            Cell((VariantName(first.variant, view.title(first.variant)),), first.variant),
            Cell((first.model,)),
            Cell((str(first.resolution_px),), first.resolution_px),
            _reported_cell(found.get("parameters"), 1e6),
            _reported_cell(found.get("macs"), 1e9),
            _reported_cell(found.get("imagenet1k_top1"), 1e-2),
            Cell(tuple(source)),
        )
    )


def _reported_cell(number: ReportedNumber | None, unit: float) -> Cell:
    if number is None:
        return Cell((MISSING,), tone="muted")
    about = "\N{ALMOST EQUAL TO}\N{THIN SPACE}" if number.from_plot else ""
    return Cell((f"{about}{significant(number.value / unit)}",), number.value)
