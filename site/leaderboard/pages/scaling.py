"""Latency and throughput against tokens: curves, where they end, slopes and crossovers."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal

from bench.curves import crossover, exponent
from leaderboard.axes import Axis, tokens_axis
from leaderboard.blocks import (
    Block,
    Cell,
    Chooser,
    Document,
    Head,
    Panel,
    Paragraph,
    Row,
    Subsection,
    Table,
    VariantName,
)
from leaderboard.contexts import (
    LEVEL_WORDS,
    PASSES_WORDS,
    Context,
    Size,
    by_context,
    slug,
)
from leaderboard.curves import Family, families, series_of
from leaderboard.figures import curves
from leaderboard.format import decimal, listed, measure, significant, whole
from leaderboard.page import Page
from leaderboard.ranking import grouped
from leaderboard.results import SIGNS_HELP, Exactness, Result, View

FACETS = ("Machine", "Passes", "Level", "Type", "Along")


def _documents(view: View) -> Iterator[Document]:
    panels = tuple(_panels(view))
    blocks: list[Block] = [
        Paragraph(
            (
                (
                    "One line is one variant; open markers are faster executions of it. Bars are "
                    "95 % "
                    "intervals of the round medians, mostly smaller than the marker. A cross "
                    "marks the "
                    "last size that worked before a failure."
                ),
            ),
            "lead",
        )
    ]
    if panels:
        blocks.append(Chooser(id="scaling", facets=FACETS, panels=panels))
    else:
        blocks.append(Paragraph(("No results at two or more sizes yet.",)))
    yield Document(
        path="scaling.html",
        title="Scaling",
        summary="Latency and throughput of attention mechanisms against tokens and resolution.",
        blocks=tuple(blocks),
    )


def _panels(view: View) -> Iterator[Panel]:
    order = {hardware_id: n for n, hardware_id in enumerate(view.machines)}
    contexts = by_context(view.results)
    for context in sorted(contexts, key=lambda c: (order[c.hardware_id], c.order)):
        if context.batch_policy == "one":
            for family in families(contexts[context]):
                yield _panel(view, context, family)


def _panel(view: View, context: Context, family: Family) -> Panel:
    id_ = slug(f"{context.hardware_id}-{context.slug}-{family.key}")
    return Panel(
        id=id_,
        title=f"{family.title}, {PASSES_WORDS[context.passes]}",
        values=(
            (context.hardware_id, view.machine_title(context.hardware_id)),
            (context.passes, PASSES_WORDS[context.passes]),
            (context.level, LEVEL_WORDS[context.level]),
            (f"{context.dtype}-{context.width}", context.dtype),
            (family.key, family.title),
        ),
        blocks=(
            Paragraph(((f"{context.dtype}, {LEVEL_WORDS[context.level]}, 1 sequence, "
                       f"{context.width}. {SIGNS_HELP}"),), "small"),
            _figure(view, family, f"latency-{id_}", "latency", "Latency"),
            _figure(view, family, f"throughput-{id_}", "throughput", "Throughput"),
            Subsection(f"{id_}-exponents", "How steep", (
                Paragraph((
                    ("Exponent of latency in tokens, fitted over the four largest sizes; 1 is "
                    "linear, 2 is quadratic. Formula: the exponent of the core's FLOPs for large "
                    "grids. A fitted exponent below the formula's means that fixed costs and "
                    "projections still weigh in at these sizes."),
                ), "small"),
                _exponents(view, family, f"{id_}-exponents-table"),
            )),
            Subsection(f"{id_}-crossings", "Where the order changes", (
                Paragraph((
                    ("Pairs of which one is faster for few tokens and the other for many; "
                    "interpolated between measured sizes, never beyond them."),
                ), "small"),
                _crossings(view, family, f"{id_}-crossings-table"),
            )),
        ),
    )  # fmt: skip


def _figure(view: View, family: Family, id_: str, metric: str, word: str) -> Block:
    unit = "s" if metric == "latency" else "token/s"
    title = f"{word} against {family.axis.lower()}"
    return curves(
        id_=id_,
        title=title,
        finding=_finding(view, family, metric),
        x=tokens_axis(family.axis, {s.tokens: s.resolution_px for s in family.sizes}),
        y=Axis(title=word, quantity=unit, log=True),
        series=series_of(view, family, metric),
        marks=view.marks,
    )


_OF: dict[Exactness, str] = {
    "exact": "of exact softmax attention",
    "approximate": "of its approximations",
    "own": "of the other mechanisms",
}


def _finding(view: View, family: Family, metric: str) -> str:
    """Who leads each kind of function at the largest size, and who is missing there."""
    size = family.sizes[-1]
    words = _leaders(view, family.at(size), metric, size)
    failed = sorted({_label(view, r) for r in family.at(size) if not r.ok})
    return f"{words}; not measured there: {listed(failed)}." if failed else f"{words}."


def _leaders(view: View, results: Sequence[Result], metric: str, size: Size) -> str:
    better: Literal["lower", "higher"] = "lower" if metric == "latency" else "higher"
    parts: list[str] = []
    for group in grouped(view, results, metric=metric, better=better):
        best = [p.result for p in group.ranked if p.rank == 1]
        if best:
            value = measure("s" if metric == "latency" else "token/s",
                            best[0].numbers[metric].value)  # fmt: skip
            verb = "leads" if len(best) == 1 else "tie"
            names = listed(_label(view, r) for r in best)
            parts.append(f"{_OF[group.exactness]} {names} {verb} with {value}")
    return f"At {size.title}, {'; '.join(parts) if parts else 'nothing was measured'}"


def _label(view: View, result: Result) -> str:
    return view.title(result.variant) + (f" {result.detail}" if result.detail else "")


def _exponents(view: View, family: Family, id_: str) -> Table:
    rows: list[Row] = []
    for results in family.lines():
        first = results[0]
        able = [r for r in results if r.ranked and "latency" in r.numbers]
        found = exponent([r.tokens or 0 for r in able], [r.numbers["latency"].value for r in able])
        entry = view.variants.get(first.variant)
        cells = [Cell((VariantName(first.variant, view.title(first.variant), first.detail),),
                      _label(view, first))]  # fmt: skip
        if found is None:
            cells += [Cell(("too few sizes",), tone="muted"), Cell(("\N{EN DASH}",), tone="muted"),
                      Cell(("\N{EN DASH}",), tone="muted")]  # fmt: skip
        else:
            cells += [
                Cell((decimal(found.value),), found.value),
                Cell((f"{decimal(found.low)} to {decimal(found.high)}",), found.low),
                Cell((f"{whole(found.smallest_tokens)} tokens on",), found.smallest_tokens),
            ]
        order = None if entry is None else entry.order
        cells.append(Cell((decimal(order) if order is not None else "\N{EN DASH}",), order))
        rows.append(Row(tuple(cells)))
    return Table(
        id=id_,
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


def _crossings(view: View, family: Family, id_: str) -> Table:
    lines = [line for line in family.lines() if sum(r.ranked for r in line) > 1]
    rows: list[Row] = []
    for one, other in combinations(lines, 2):
        row = _crossing(view, one, other)
        if row is not None:
            rows.append(row)
    rows.sort(key=lambda row: float(row.cells[2].order or 0.0))
    return Table(
        id=id_,
        caption="Crossovers of latency",
        heads=(
            Head(title="Faster for fewer tokens"),
            Head(title="Faster for more tokens"),
            Head(title="From about", unit="tokens", number=True),
            Head(title="Interval", unit="tokens", number=True, secondary=True, sortable=False),
        ),
        rows=tuple(rows),
        empty="No two lines cross between the measured sizes.",
        show_caption=False,
    )


def _crossing(view: View, one: Sequence[Result], other: Sequence[Result]) -> Row | None:
    first = _standing_by_tokens(one)
    second = _standing_by_tokens(other)
    shared = sorted(first.keys() & second.keys())
    if len(shared) < 2:
        return None
    found = crossover(
        shared,
        [first[n].numbers["latency"].standing for n in shared],
        [second[n].numbers["latency"].standing for n in shared],
    )
    # a crossing without a certain interval may be noise between two equal curves
    if found is None or found.low is None or found.high is None:
        return None
    before, after = (other, one) if found.better_beyond == "first" else (one, other)
    cells = [
        Cell((VariantName(line[0].variant, view.title(line[0].variant), line[0].detail),),
             _label(view, line[0]))
        for line in (before, after)
    ]  # fmt: skip
    about = round(found.tokens)
    low, high = round(found.low), round(found.high)
    cells += [
        Cell((significant(about, 2),), about),
        Cell((f"{whole(low)} to {whole(high)}",), low),
    ]
    return Row(tuple(cells))


def _standing_by_tokens(results: Sequence[Result]) -> Mapping[int, Result]:
    return {r.tokens: r for r in results if r.ranked and "latency" in r.numbers and r.tokens}


PAGE = Page(title="Scaling", path="scaling.html", order=2, documents=_documents)
