"""Tables of ranked results: what one row says, and what opens behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

from leaderboard.addresses import result_address
from leaderboard.format import MISSING, Quantity, Scale, measure, scale_for, whole
from leaderboard.pieces import Badge, Inline, Link, Muted, Piece, Strip, VariantName
from leaderboard.provenance import TRUST_HEAD, failure_words, flags, rule_badges, trust_cell
from leaderboard.ranking import Group, Placed
from leaderboard.results import EXACTNESS_TITLES, Exactness, Number, Result, View
from leaderboard.tables import Cell, Head, Row, Table

EXACTNESS_BADGES: Mapping[Exactness, Badge] = {
    "exact": Badge("exact", "exact", "Computes softmax attention."),
    "approximate": Badge("approximate", "approximate", "Approximates softmax attention."),
    "own": Badge("other function", "own", "Computes another function than softmax attention."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantities:
    """Which metric ranks a table, and its scales, so that tables under each other compare."""

    metric: str
    better: Literal["lower", "higher"]
    main: Scale
    strip: tuple[float, float]
    """Logarithms of the ends of the shared axis."""
    memory: Scale
    flops: Scale
    cold: Scale


def quantities(
    results: Sequence[Result], *, metric: str, better: Literal["lower", "higher"]
) -> Quantities:
    """Choose the scales for all results of a context and size."""

    def of(name: str) -> list[float]:
        return [r.numbers[name].value for r in results if r.ok and name in r.numbers]

    found = [r.numbers[metric] for r in results if r.ok and metric in r.numbers]
    ends = [log(v) for n in found for v in (n.value, n.low, n.high) if v is not None and v > 0]
    unit: Quantity = "s" if metric == "latency" else "token/s"
    return Quantities(
        metric=metric,
        better=better,
        main=scale_for(unit, of(metric)),
        strip=(min(ends), max(ends)) if ends else (0.0, 1.0),
        memory=scale_for("byte", of("peak_memory")),
        flops=scale_for("flop", of("flops")),
        cold=scale_for("s", of("latency_cold") or of("latency")),
    )


def group_table(
    view: View,
    group: Group,
    chosen: Quantities,
    *,
    id_: str,
    baseline: Result | None,
    full: bool,
) -> Table:
    """Return one kind of function as a table.

    Args:
        view: names and links.
        group: the ranked results.
        chosen: what ranks, and the scales.
        id_: unique within the page.
        baseline: what ratios are taken to; None: no such column values.
        full: every column; False: the short form of the home page.
    """
    show_batch = chosen.metric != "latency"
    heads = [
        Head(title="Rank", help="Rows that cannot be told apart share a rank, written =1.",
             number=True, shape="rank"),
        Head(title="Variant", shape="name"),
        *_main_heads(chosen, show_batch=show_batch),
        Head(title="Peak memory", unit=chosen.memory.unit, number=True, shape="number",
             help="Largest memory in use during a call, above inputs and parameters.",
             secondary=True),
    ]  # fmt: skip
    if full:
        heads += [
            Head(title="FLOPs", unit=chosen.flops.unit, number=True, secondary=True, shape="number",
                 help="Forward, by formula; one multiply-add is 2 FLOPs."),
            Head(title="Efficiency", unit="%", number=True, secondary=True, shape="number",
                 help="Least time this machine needs for the work, over the time taken."),
            Head(title="Cold", unit=chosen.cold.unit, number=True, secondary=True, shape="number",
                 help="Latency with freshly allocated pages; CPU only."),
        ]  # fmt: skip
    if full and view.table.trust is not None:
        heads.append(TRUST_HEAD)
    rows = tuple(
        _row(view, placed, chosen, baseline=baseline, full=full, show_batch=show_batch)
        for placed in group.placed
    )
    return Table(
        id=id_,
        caption=EXACTNESS_TITLES[group.exactness],
        heads=tuple(heads),
        rows=rows,
        empty="No results yet.",
        name_column=1,
        show_caption=False,
        sortable=full,
        aligned=True,
    )


def _main_heads(chosen: Quantities, *, show_batch: bool) -> list[Head]:
    latency = chosen.metric == "latency"
    heads = [
        Head(title="Latency" if latency else "Throughput", unit=chosen.main.unit, number=True,
             shape="number",
             help="Median of the round medians; each leads to its samples and provenance."),
        Head(title="95 % interval", unit=chosen.main.unit, number=True, secondary=True,
             sortable=False, help="Of the round medians.", shape="interval"),
        Head(title="On one axis", secondary=True, sortable=False, shape="strip",
             help="Value and interval on the logarithmic axis that all tables of this choice "
                  "share."),
        Head(title="To softmax", number=True, shape="number",
             help="Ratio to exact softmax attention by PyTorch's SDPA: "
             + ("below 1 takes less time." if latency else "above 1 gets more done.")),
    ]  # fmt: skip
    if show_batch:
        heads.insert(
            0, Head(title="Batch", number=True, help="Sequences in one call.", shape="number")
        )
    return heads


def _row(
    view: View,
    placed: Placed,
    chosen: Quantities,
    *,
    baseline: Result | None,
    full: bool,
    show_batch: bool,
) -> Row:
    result = placed.result
    number = result.numbers.get(chosen.metric) if result.ok else None
    cells = [
        _rank_cell(placed),
        Cell(name(view, result), f"{result.variant} {result.detail or ''}"),
    ]
    if show_batch:
        cells.append(_count(result.batch))
    if number is None:
        cells += [_failure_cell(result), _nothing(), _nothing(), _nothing()]
    else:
        cells += [
            Cell((Link(chosen.main.text(number.value), result_address(result)),), number.value,
                 tone="best" if placed.rank == 1 else "plain"),
            Cell((Muted(interval_text(chosen.main, number)),), number.low),
            Cell((_strip(result, number, chosen),)),
            _ratio_cell(number, baseline, chosen.metric),
        ]  # fmt: skip
    cells.append(_value(result, "peak_memory", chosen.memory))
    if full:
        cells += [
            _value(result, "flops", chosen.flops),
            _value(result, "efficiency", scale_for("fraction", (1.0,))),
            _value(result, "latency_cold", chosen.cold),
        ]
        if view.table.trust is not None:
            cells.append(trust_cell(result))
    tone: Literal["plain", "baseline", "failed", "stale"] = "plain"
    if not result.ok:
        tone = "failed"
    elif placed.rank is None:
        tone = "stale"
    elif baseline is not None and result.case_id == baseline.case_id:
        tone = "baseline"
    return Row(tuple(cells), tone)


def name(view: View, result: Result) -> Inline:
    """Return the name of a result with the badges that belong to it."""
    pieces: list[Piece] = [VariantName(result.variant, view.title(result.variant), result.detail)]
    pieces += flags(result)
    pieces += rule_badges(view, result)
    return tuple(pieces)


def interval_text(scale: Scale, number: Number) -> str:
    """Return `1.21 to 1.25`, or a dash where there is no interval."""
    if number.low is None or number.high is None:
        return MISSING
    return f"{scale.text(number.low)} to {scale.text(number.high)}"


def _rank_cell(placed: Placed) -> Cell:
    if placed.rank is None:
        return Cell((MISSING,), tone="muted")
    return Cell((f"={placed.rank}" if placed.tied else str(placed.rank),), placed.rank)


def _failure_cell(result: Result) -> Cell:
    if result.ok:
        return Cell(("not measured",), tone="muted")
    return Cell((Link(failure_words(result), result_address(result)),), tone="failure")


def _nothing() -> Cell:
    return Cell((MISSING,), tone="muted")


def _count(value: int | None) -> Cell:
    return _nothing() if value is None else Cell((whole(value),), value)


def _value(result: Result, metric: str, scale: Scale) -> Cell:
    number = result.numbers.get(metric) if result.ok else None
    if number is None:
        return _nothing()
    return Cell((scale.text(number.value),), number.value)


def _ratio_cell(number: Number, baseline: Result | None, metric: str) -> Cell:
    if baseline is None:
        return _nothing()
    ratio = number.value / baseline.numbers[metric].value
    return Cell((measure("ratio", ratio),), ratio)


def _strip(result: Result, number: Number, chosen: Quantities) -> Strip:
    low, high = chosen.strip

    def place(value: float | None) -> float:
        at = number.value if value is None else value
        return 0.5 if high == low or at <= 0 else (log(at) - low) / (high - low)

    return Strip(result.variant, place(number.low), place(None), place(number.high))
