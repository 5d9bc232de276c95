"""How near each execution comes to what its machine can do."""

from collections.abc import Iterator, Mapping, Sequence, Set
from math import exp, log

from leaderboard.addresses import execution, machine, result_address
from leaderboard.along import Along, along_documents, conditions
from leaderboard.axes import Axis, tokens_axis
from leaderboard.blocks import Block, Document, Paragraph, Section
from leaderboard.contexts import slug
from leaderboard.curves import series_of
from leaderboard.downloads import context_base, links
from leaderboard.figure_data import Point, Series
from leaderboard.figures import curves
from leaderboard.format import MISSING, count_of, listed, measure, percent
from leaderboard.page import Page
from leaderboard.pieces import Link, Muted, VariantName
from leaderboard.results import SIGNS_HELP, Result, View
from leaderboard.tables import Cell, Head, Row, Table

_LEAD = (
    "The line is what the machine reached at best: bytes at the rate of a copy, then arithmetic at "
    "the rate of a matrix product. Each execution walks from its smallest size to "
    "its largest; what lies far below the line spends its time on something else than arithmetic "
    "and main memory. On a CPU small sizes may lie above the slope: their data stay in its caches."
)
_STEPS = 24
_BINDS = {"compute": "C", "memory": "M", "overhead": "L"}


def _documents(view: View) -> Iterator[Document]:
    yield from along_documents(
        view, "roofline", "Roofline", _LEAD, lambda place: _blocks(view, place)
    )


def _blocks(view: View, place: Along) -> Iterator[Block]:
    context, family = place.context, place.family
    id_ = slug(f"{context.hardware_id}-{context.slug}-{family.key}")
    runs = {r.run_id for s in family.sizes for r in family.at(s)}
    ceilings = _ceilings(view, runs)
    yield conditions(context, SIGNS_HELP)
    walks = _walks(view, place)
    peak = ceilings.get(f"matmul_{context.dtype}")
    bandwidth = ceilings.get("copy_bandwidth")
    words = [
        *([f"{measure('flop/s', peak)} for {context.dtype} matrix products"] if peak else []),
        *([f"{measure('byte/s', bandwidth)} for a copy"] if bandwidth else []),
    ]
    yield Paragraph(
        (
            (
                f"Ceilings, the best of {count_of(len(runs), 'run')} that these results come from: "
                f"{listed(words) or 'not measured'}. Efficiency is relative to those of its own "
                "run. "
            ),
            Link("How they were measured", f"{machine(context.hardware_id)}#ceilings"),
        ),
        "small",
    )
    if any(one.points for one in walks):
        yield curves(
            id_=f"roofline-{id_}",
            title="FLOP rate against arithmetic intensity",
            finding=_bounds(place),
            x=Axis(title="FLOPs per byte that must move", quantity="flop/byte", log=True),
            y=Axis(title="FLOP rate", quantity="flop/s", log=True),
            series=walks,
            marks=view.marks,
            ceiling=_line(walks, peak, bandwidth),
            paired=True,
        )
    yield curves(
        id_=f"efficiency-{id_}",
        title=f"Share of what the machine can do, against {family.axis.lower()}",
        finding=_finding(view, place),
        x=tokens_axis(family.axis, {s.tokens: s.resolution_px for s in family.sizes}),
        y=Axis(title="Efficiency", quantity="fraction", log=True),
        series=series_of(view, family, "efficiency"),
        marks=view.marks,
    )
    yield Section("efficiency", "Efficiency at every size", tuple(_efficiencies(view, place)))
    yield links(("All rows of this machine and context", context_base(context)))


def _ceilings(view: View, runs: Set[str]) -> Mapping[str, float]:
    """Best ceilings of the runs that the results come from."""
    found: dict[str, float] = {}
    for run_id in sorted(runs):
        entry = view.runs.get(run_id)
        for name, value in (entry.ceilings if entry else {}).items():
            found[name] = max(found.get(name, value), value)
    return found


def _walks(view: View, place: Along) -> tuple[Series, ...]:
    """One series an execution: intensity against FLOP rate, from the smallest size on."""
    shown = {one.name: one for one in series_of(view, place.family, "efficiency")}
    found: list[Series] = []
    for results in place.family.lines():
        one = shown.get(execution(results[0]))
        points = [_point(r) for r in results]
        real = tuple(p for p in points if p is not None)
        if one is not None and real:
            found.append(
                Series(
                    variant=one.variant, label=one.label, main=one.main, points=real,
                    shown=one.shown, name=one.name,
                )
            )  # fmt: skip
    return tuple(found)


def _point(result: Result) -> Point | None:
    intensity, rate = result.numbers.get("intensity"), result.numbers.get("flop_rate")
    if not result.ranked or intensity is None or rate is None:
        return None
    return Point(x=intensity.value, y=rate.value, low=rate.low, high=rate.high)


def _line(
    walks: Sequence[Series], peak: float | None, bandwidth: float | None
) -> tuple[Point, ...]:
    """The roof over the range of the walks: min(peak, bandwidth * intensity)."""
    xs = [p.x for one in walks for p in one.points]
    if not xs or peak is None:
        return ()
    low, high = log(min(xs)), log(max(xs))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    places = [exp(low + (high - low) * n / _STEPS) for n in range(_STEPS + 1)]
    if bandwidth is not None:
        places.append(min(max(peak / bandwidth, places[0]), places[-1]))
    return tuple(
        Point(x=x, y=peak if bandwidth is None else min(peak, bandwidth * x), low=None, high=None)
        for x in sorted(places)
    )


_BOUND_WORDS = {"compute": "by compute", "memory": "by memory", "overhead": "by the call's launch"}


def _bounds(place: Along) -> str:
    """How many executions are bound by what, at the largest size."""
    size = place.family.sizes[-1]
    able = [r.numbers["efficiency"].bound for r in place.family.at(size)
            if r.ranked and "efficiency" in r.numbers]  # fmt: skip
    counts = [(word, able.count(bound)) for bound, word in _BOUND_WORDS.items()]
    told = [(word, number) for word, number in counts if number]
    parts = [word if number == len(able) else f"{word} ({number})" for word, number in told]
    if not parts:
        return f"At {size.title} no floor is known."
    number = count_of(len(able), "execution")
    return f"At {size.title} the floor of {number} is set {listed(parts)}."


def _finding(view: View, place: Along) -> str:
    size = place.family.sizes[-1]
    able = [r for r in place.family.at(size) if r.ranked and "efficiency" in r.numbers]
    if not able:
        return f"At {size.title} no efficiency is known."
    ordered = sorted(able, key=lambda r: (-r.numbers["efficiency"].value, r.case_id))
    best, worst = ordered[0], ordered[-1]
    words = (
        f"At {size.title}: {view.label(best)} reaches {percent(best.numbers['efficiency'].value)} "
        "of what this machine can do"
    )
    if worst is not best:
        words += f", {view.label(worst)} {percent(worst.numbers['efficiency'].value)}"
    return f"{words}."


def _efficiencies(view: View, place: Along) -> Iterator[Block]:
    yield Paragraph(
        (
            (
                "Floor over latency, in per cent. The letter says what the floor is bound by: "
                "C compute, M memory, L the launch of the call."
            ),
        ),
        "small",
    )
    rows: list[Row] = []
    for line in place.family.lines():
        first = line[0]
        at = {(r.tokens, r.grid_height): r for r in line}
        name = VariantName(first.variant, view.title(first.variant), first.detail)
        cells = [Cell((name,), f"{first.variant} {first.detail or ''}")]
        cells += [_cell(at.get((s.tokens, s.height))) for s in place.family.sizes]
        rows.append(Row(tuple(cells)))
    sizes = place.family.sizes
    yield Table(
        id="efficiency-table",
        caption="Efficiency, per cent",
        heads=(
            Head(title="Variant", shape="name"),
            *(
                Head(title=f"{s.resolution_px} px" if s.resolution_px else f"{s.tokens:,}",
                     number=True, help=s.title)
                for s in sizes
            ),
        ),
        rows=tuple(rows),
        empty="No results yet.",
        show_caption=False,
        sticky=True,
    )  # fmt: skip


def _cell(result: Result | None) -> Cell:
    number = None if result is None else result.numbers.get("efficiency")
    if result is None or number is None or not result.ok:
        return Cell((MISSING,), tone="muted")
    letter = f" {_BINDS[number.bound]}" if number.bound in _BINDS else ""
    link = Link(f"{100 * number.value:.1f}", result_address(result))
    return Cell((link, Muted(letter)), number.value)


PAGE = Page(
    title="Roofline",
    path="roofline.html",
    order=7,
    documents=_documents,
    about="How near each execution comes to what its machine can do.",
)
