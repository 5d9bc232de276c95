"""Latency and throughput against tokens: curves, where they end, and how steep they are."""

from collections.abc import Iterator, Sequence

from bench.curves import exponent
from leaderboard.along import Along, along_documents, conditions
from leaderboard.axes import Axis, tokens_axis
from leaderboard.blocks import Block, Document, Paragraph, Section
from leaderboard.contexts import Size, slug
from leaderboard.curves import Family, series_of
from leaderboard.downloads import context_base, links
from leaderboard.figures import curves
from leaderboard.format import MISSING, decimal, listed, measure, whole
from leaderboard.page import Page
from leaderboard.pieces import Link, VariantName
from leaderboard.ranking import grouped
from leaderboard.results import SIGNS_HELP, Exactness, Result, View
from leaderboard.tables import Cell, Head, Row, Table

_LEAD = (
    "One line is one variant; open markers are faster executions of it. Bars are 95 % intervals of "
    "the round medians, mostly smaller than the marker. A cross marks the last size that worked "
    "before a failure."
)
_MOST_NAMED = 6


def _documents(view: View) -> Iterator[Document]:
    yield from along_documents(
        view, "scaling", "Scaling", _LEAD, lambda place: _blocks(view, place)
    )


def _blocks(view: View, place: Along) -> Iterator[Block]:
    context, family = place.context, place.family
    id_ = slug(f"{context.hardware_id}-{context.slug}-{family.key}")
    crossings = place.choice.path.replace("scaling/", "crossovers/", 1)
    yield conditions(context, SIGNS_HELP)
    yield _figure(view, family, f"latency-{id_}", "latency", "Latency")
    yield _figure(view, family, f"throughput-{id_}", "throughput", "Throughput")
    yield Section("exponents", "How steep", (
        Paragraph((
            ("Exponent of latency in tokens, fitted over the largest sizes, at most four; 1 is "
             "linear, 2 is quadratic. Formula: the exponent of the core's FLOPs for large grids. A "
             "fitted exponent below the formula's means that fixed costs and projections still "
             "weigh in at these sizes. "),
            Link("Where the order changes", crossings), ".",
        ), "small"),
        _exponents(view, family),
    ))  # fmt: skip
    yield links(("All rows of this machine and context", context_base(context)))


def _figure(view: View, family: Family, id_: str, metric: str, word: str) -> Block:
    return curves(
        id_=id_,
        title=f"{word} against {family.axis.lower()}",
        finding=_finding(view, family, metric),
        x=tokens_axis(family.axis, {s.tokens: s.resolution_px for s in family.sizes}),
        y=Axis(title="Latency", quantity="s", log=True)
        if metric == "latency"
        else Axis(title="Throughput, tokens/s", quantity="token/s", log=True),
        series=series_of(view, family, metric),
        marks=view.marks,
    )


_OF: dict[Exactness, str] = {
    "exact": "exact softmax attention",
    "approximate": "its approximations",
    "own": "the other mechanisms",
}


def _finding(view: View, family: Family, metric: str) -> str:
    """Who leads each kind of function at the largest size, and who is missing there."""
    size = family.sizes[-1]
    words = _leaders(view, family.at(size), metric, size)
    failed = sorted({view.label(r) for r in family.at(size) if not r.ok})
    return f"{words}; failed there: {_named(failed)}." if failed else f"{words}."


def _named(names: Sequence[str]) -> str:
    """A few names, and how many more."""
    if len(names) <= _MOST_NAMED:
        return listed(names)
    more = len(names) - _MOST_NAMED + 1
    return listed([*names[: _MOST_NAMED - 1], f"{more} more"])


def _leaders(view: View, results: Sequence[Result], metric: str, size: Size) -> str:
    quantity = "s" if metric == "latency" else "token/s"
    parts: list[str] = []
    for group in grouped(
        view, results, metric=metric, better="lower" if metric == "latency" else "higher"
    ):
        best = [p.result for p in group.ranked if p.rank == 1]
        if best:
            value = measure(quantity, best[0].numbers[metric].value)
            verb = "leads" if len(best) == 1 else "share the lead of"
            names = _named([view.label(r) for r in best])
            parts.append(f"{names} {verb} {_OF[group.exactness]} with {value}")
    return f"At {size.title}: {'; '.join(parts) if parts else 'nothing was measured'}"


def _exponents(view: View, family: Family) -> Table:
    rows: list[Row] = []
    for results in family.lines():
        first = results[0]
        able = [r for r in results if r.ranked and "latency" in r.numbers]
        found = exponent([r.tokens or 0 for r in able], [r.numbers["latency"].value for r in able])
        entry = view.variants.get(first.variant)
        name = VariantName(first.variant, view.title(first.variant), first.detail)
        cells = [Cell((name,), view.label(first))]
        if found is None:
            nothing = Cell((MISSING,), tone="muted")
            cells += [Cell(("too few sizes",), tone="muted"), nothing, nothing]
        else:
            cells += [
                Cell((decimal(found.value),), found.value),
                Cell((f"{decimal(found.low)} to {decimal(found.high)}",), found.low),
                Cell((f"{whole(found.smallest_tokens)} tokens on",), found.smallest_tokens),
            ]
        order = None if entry is None else entry.order
        cells.append(Cell((decimal(order) if order is not None else MISSING,), order))
        rows.append(Row(tuple(cells)))
    return Table(
        id="exponents-table",
        caption="Exponents of latency in tokens",
        heads=(
            Head(title="Variant"),
            Head(title="Measured", number=True),
            Head(title="95 % interval", number=True, secondary=True),
            Head(title="Fitted from", number=True, secondary=True),
            Head(title="Formula", number=True, help="Core only, default options."),
        ),
        rows=tuple(rows),
        empty="No results yet.",
        show_caption=False,
    )


PAGE = Page(
    title="Scaling",
    path="scaling.html",
    order=3,
    documents=_documents,
    about="Latency and throughput against tokens and resolution.",
)
