"""Small charts that need no script: lines and pictures as geometry, which the template draws.

Figures that a reader explores are plotly's (`figures.py`); these are for figures that carry a
sentence, and for many small ones beside each other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leaderboard.csvfile import csv_text
from leaderboard.drawings import Chart, ChartBar, ChartKey, ChartLine, Charts, Tile, Tiles
from leaderboard.format import significant
from leaderboard.marks import COLOURS, DASHES, SYMBOLS, Mark

WIDTH, HEIGHT = 360.0, 230.0
"""Of a chart, in the units in which its text is 11 high: the width of a phone."""
SMALL_WIDTH, SMALL_HEIGHT = 160.0, 110.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 8.0, 40.0
_MOST_TICKS = 6
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BESIDE, _APART = 7.0, 2.5
"""Between the points of several lines: at one name, and where upright intervals would coincide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One axis of a chart."""

    title: str
    low: float
    high: float
    log: bool = False
    percent: bool = False
    """Values are fractions of 1 and read as per cent."""
    names: tuple[str, ...] | None = None
    """What stands at 0, 1, ...; None: numbers."""
    at: tuple[float, ...] | None = None
    """Where ticks stand; None: at round places."""

    def share(self, value: float) -> float:
        """Return where `value` lies between the ends, 0..1, cut at both."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def ticks(self, most: int = _MOST_TICKS) -> tuple[tuple[float, str], ...]:
        """Return values and texts, few and round."""
        if self.names is not None:
            return tuple((float(n), name) for n, name in enumerate(self.names))
        if self.at is not None and len(self.at) <= most:
            return tuple((v, self._text(v)) for v in self.at)
        if self.log:
            return tuple((v, self._text(v)) for v in _decades(self.low, self.high, most))
        return tuple((v, self._text(v)) for v in _steps(self.low, self.high, most))

    def _text(self, value: float) -> str:
        if self.percent:
            text = significant(100 * value) if value else "0"
            return _trimmed(text)
        if value and not 1e-3 <= abs(value) < 1e5:
            power = math.floor(math.log10(abs(value)) + 1e-9)
            factor = round(value / 10.0**power)
            return f"{'' if factor == 1 else f'{factor}·'}10{str(power).translate(_SUPERSCRIPTS)}"
        return _trimmed(significant(value)).replace("-", "\N{MINUS SIGN}")


def scale(
    title: str,
    values: Sequence[float],
    *,
    log: bool = False,
    percent: bool = False,
    names: tuple[str, ...] | None = None,
    at: tuple[float, ...] | None = None,
) -> Scale:
    """Return an axis that shows all `values` with some room.

    What is not positive has no place on a logarithmic axis and is drawn at its lower end.

    Args:
        title: with unit.
        values: everything that is drawn.
        log: logarithmic.
        percent: values are fractions of 1.
        names: what stands at 0, 1, ... instead of numbers.
        at: where ticks stand, if they are few.
    """
    if names is not None:
        return Scale(title=title, low=-0.5, high=len(names) - 0.5, names=names)
    shown = [v for v in values if v > 0] if log else list(values)
    if log and not shown:
        log, shown = False, list(values)
    low, high = min(shown), max(shown)
    if log:
        room = max(1.06, (high / low) ** 0.04)
        return Scale(
            title=title, low=low / room, high=high * room, log=True, percent=percent, at=at
        )
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    bottom = low if low == 0 else low - room
    top = min(1.0, high + room) if percent and high <= 1 else high + room
    return Scale(title=title, low=bottom, high=top, percent=percent, at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One line of a chart, in its own units."""

    label: str
    look: Mark
    points: tuple[tuple[float, float], ...]
    ends: tuple[tuple[float, float], ...] = ()
    """Interval of each point; empty: there is none."""
    faint: bool = False


def chart(
    *,
    title: str,
    description: str,
    x: Scale,
    y: Scale,
    lines: Sequence[Drawn],
    level: tuple[float, str] | None = None,
    small: bool = False,
) -> Chart:
    """Return one chart.

    Args:
        title: stands above; empty where the figure has only one.
        description: for those who cannot see it.
        x: along.
        y: up.
        lines: at least one; with names along they are points beside each other.
        level: a horizontal line to compare with, and what it is.
        small: one of many; fewer ticks, no titles of the axes.
    """
    width, height = (SMALL_WIDTH, SMALL_HEIGHT) if small else (WIDTH, HEIGHT)
    left, bottom = (30.0, 18.0) if small else (_LEFT, _BOTTOM)
    across, up = width - left - _RIGHT, height - bottom - _TOP

    def place(at: float, value: float) -> tuple[float, float]:
        return left + across * x.share(at), _TOP + up * (1 - y.share(value))

    bounded = not small and sum(bool(one.ends) for one in lines) > 1
    step = _BESIDE if x.names is not None else _APART if bounded else 0.0
    drawn: list[ChartLine] = []
    for number, one in enumerate(lines):
        shift = step * (number - (len(lines) - 1) / 2)
        places = [place(*point) for point in one.points]
        places = [(px + shift, py) for px, py in places]
        bars = [
            ChartBar(px, place(0, low)[1], place(0, high)[1])
            for (px, _), (low, high) in zip(places, one.ends, strict=False)
            if low < high
        ]
        drawn.append(
            ChartLine(
                colour_class=one.look.colour_class,
                dash_class=one.look.dash_class,
                symbol=one.look.symbol,
                path="" if x.names is not None or len(places) < 2 else _path(places),
                dots=() if small else tuple(places),
                bars=tuple(bars),
                faint=one.faint,
            )
        )
    ticks = 3 if small else _MOST_TICKS
    return Chart(
        title=title,
        description=description,
        width=width,
        height=height,
        left=left,
        top=_TOP,
        right=width - _RIGHT,
        bottom=height - bottom,
        x_ticks=tuple((place(v, y.low)[0], text) for v, text in x.ticks(ticks)),
        y_ticks=tuple((place(x.low, v)[1], text) for v, text in y.ticks(ticks)),
        x_title="" if small else x.title,
        y_title="" if small else y.title + (", %" if y.percent else ""),
        lines=tuple(drawn),
        level=None if level is None else (place(x.low, level[0])[1], level[1]),
    )


def charts(
    *,
    id_: str,
    title: str,
    note: str,
    members: Sequence[Chart],
    keys: Sequence[tuple[str, Mark]],
    rows: Sequence[tuple[str, str, float, float, float | None, float | None]],
    small: bool = False,
) -> Charts:
    """Return charts beside each other with one key, and their data as a file.

    Args:
        id_: unique within the site.
        title: of the figure.
        note: a line under the title; may be empty.
        members: the charts.
        keys: texts and looks.
        rows: (chart, line, x, y, low, high).
        small: many small ones.
    """
    return Charts(
        id=id_,
        title=title,
        note=note,
        charts=tuple(members),
        key=tuple(
            ChartKey(text, look.colour_class, look.dash_class, look.symbol) for text, look in keys
        ),
        small=small,
        csv_path=f"data/figures/{id_}.csv",
        csv_text=csv_text(("chart", "line", "x", "y", "low", "high"), rows),
    )


def looks(variants: Sequence[str | None], marks: Mapping[str, Mark]) -> tuple[Mark, ...]:
    """Return a look a line: the variant's own; its colour with another dash where it repeats.

    Lines that all belong to one variant, or to none, get colours by their order.
    """
    if len(set(variants)) == 1 and len(variants) > 1:
        return tuple(_by_order(number) for number in range(len(variants)))
    seen: dict[str | None, int] = {}
    found: list[Mark] = []
    for number, variant in enumerate(variants):
        mark = marks[variant] if variant in marks and variant is not None else _by_order(number)
        again = seen.get(variant, 0)
        seen[variant] = again + 1
        if again:
            dash = DASHES[(DASHES.index(mark.dash) + again) % len(DASHES)]
            symbol = SYMBOLS[(SYMBOLS.index(mark.symbol) + again) % len(SYMBOLS)]
            mark = Mark(mark.light, mark.dark, dash, symbol)
        found.append(mark)
    return tuple(found)


def _by_order(number: int) -> Mark:
    light, dark = COLOURS[1 + number % (len(COLOURS) - 1)]
    return Mark(light, dark, DASHES[number % len(DASHES)], SYMBOLS[number % len(SYMBOLS)])


def tiles(title: str, rows: Sequence[Sequence[float]], marked: tuple[int, int] | None) -> Tiles:
    """Return a matrix as squares: as strong as their size, another colour below zero."""
    largest = max((abs(v) for row in rows for v in row), default=0.0) or 1.0
    return Tiles(
        title=title,
        height=len(rows),
        width=len(rows[0]),
        tiles=tuple(
            Tile(column, row, value < 0, round(abs(value) / largest, 3))
            for row, values in enumerate(rows)
            for column, value in enumerate(values)
            if abs(value) / largest >= 0.005
        ),
        marked=None if marked is None else (marked[1], marked[0]),
        range_text=f"{_number(min(min(row) for row in rows))} to {_number(largest_of(rows))}",
    )


def largest_of(rows: Sequence[Sequence[float]]) -> float:
    """Return the largest value of a matrix."""
    return max(max(row) for row in rows)


def _number(value: float) -> str:
    return _trimmed(significant(value, 2)).replace("-", "\N{MINUS SIGN}") if value else "0"


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _decades(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**n for n in range(first, last + 1)]
    inside = [v for v in powers if low <= v <= high]
    if len(inside) > most:
        return inside[:: -(-len(inside) // most)]
    if len(inside) > 2:
        return inside
    between = [f * p for p in [10.0 ** (first - 1), *powers] for f in (1, 2, 5)]
    found = [v for v in between if low <= v <= high]
    return found if len(found) > 1 else [low, high]


def _steps(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]
