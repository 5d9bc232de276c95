"""What a figure shows, as points, as a table and as a file."""

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.axes import Axis, short
from leaderboard.csvfile import csv_text
from leaderboard.format import measure
from leaderboard.pieces import VariantName
from leaderboard.tables import Cell, Head, Row, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured point, in base units."""

    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or one set of points."""

    variant: str
    label: str
    """Name in key, labels and data."""
    main: bool
    """The variant's reference: filled markers; another execution has open ones."""
    points: tuple[Point, ...]
    failed: str | None = None
    """What happens beyond the last point, e.g. `out of memory at 16,384`."""
    shown: bool = True
    name: str = ""
    """Stable name in addresses; empty: the variant's, where it has one series only."""


def with_interval(axis: Axis, point: Point) -> str:
    """Return the height of a point in words, with its interval where there is one."""
    text = measure(axis.quantity, point.y)
    if point.low is None or point.high is None:
        return text
    return f"{text} ({measure(axis.quantity, point.low)} to {measure(axis.quantity, point.high)})"


def matrix(id_: str, title: str, x: Axis, y: Axis, series: Sequence[Series]) -> Table:
    """One row a series, one column an x."""
    xs = sorted({p.x for one in series for p in one.points})
    labels = dict(x.ticks or ())
    rows: list[Row] = []
    for one in series:
        at = {p.x: p for p in one.points}
        cells = [Cell((VariantName(one.variant, one.label),), one.label)]
        cells += [
            Cell((measure(y.quantity, at[v].y),), at[v].y)
            if v in at
            else Cell(("\N{EN DASH}",), tone="muted")
            for v in xs
        ]
        cells.append(Cell((one.failed or "",), tone="muted"))
        rows.append(Row(tuple(cells)))
    heads = [Head(title="Variant")]
    heads += [Head(title=labels.get(v, short(x.quantity, v)), number=True) for v in xs]
    heads.append(Head(title="Beyond"))
    return Table(
        id=id_,
        caption=f"{title}: {y.title.lower()}",
        heads=tuple(heads),
        rows=tuple(rows),
        empty="No data.",
    )


def pairs(id_: str, title: str, x: Axis, y: Axis, series: Sequence[Series]) -> Table:
    """One row a point."""
    return Table(
        id=id_,
        caption=title,
        heads=(
            Head(title="Variant"),
            Head(title=x.title, number=True),
            Head(title=y.title, number=True),
        ),
        rows=tuple(
            Row(
                (
                    Cell((one.label,), one.label),
                    Cell((measure(x.quantity, p.x),), p.x),
                    Cell((with_interval(y, p),), p.y),
                )
            )
            for one in series
            for p in one.points
        ),
        empty="No data.",
    )


def points_csv(x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Return every point in base units, a line each."""
    head = ("variant", "series", f"x ({x.title})", f"y ({y.title}, {y.quantity})", "low", "high",
            "beyond")  # fmt: skip
    return csv_text(
        head,
        (
            (one.variant, one.label, p.x, p.y, p.low, p.high, one.failed)
            for one in series
            for p in one.points
        ),
    )
