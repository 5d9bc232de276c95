"""Axes of figures: ranges, and ticks that a person would have chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leaderboard.format import Quantity, measure, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis."""

    title: str
    quantity: Quantity
    log: bool
    ticks: tuple[tuple[float, str], ...] | None = None
    """Values and texts; None: chosen from the range."""


def plotly_text(text: str) -> str:
    """Escape what plotly would read as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def drawn_axis(axis: Axis, values: Sequence[float]) -> dict[str, Any]:
    """Return an axis in plotly's form, wide enough for `values`."""
    low, high = min(values), max(values)
    drawn: dict[str, Any] = {
        "title": {"text": plotly_text(axis.title), "standoff": 12},
        "type": "log" if axis.log else "linear",
        "gridcolor": "@grid",
        "linecolor": "@strong-line",
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "@strong-line",
        "fixedrange": False,
        "automargin": "left",
    }
    if axis.log:
        a, b = math.log10(low), math.log10(high)
        room = max(0.04 * (b - a), 0.05)
        drawn["range"] = [a - room, b + room]
        ticks = axis.ticks or _decades(axis, low, high)
    else:
        room = max(0.06 * (high - low), 1e-3)
        drawn["range"] = [low - room, high + room]
        ticks = axis.ticks or _steps(axis, low, high)
    drawn |= {"tickvals": [v for v, _ in ticks], "ticktext": [plotly_text(t) for _, t in ticks]}
    return drawn


def _decades(axis: Axis, low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Powers of ten (of two for bytes), with 2 and 5 between where there are few."""
    if axis.quantity == "byte":
        first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
        step = max(1, (last - first) // 6)
        powers = range(first - first % step, last + 1, step)
        return tuple((2.0**n, measure("byte", 2.0**n)) for n in powers)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if high / low < 200 else (1,)
    values = [f * 10.0**n for n in range(first - 1, last + 1) for f in factors]
    if sum(low <= v <= high for v in values) < 3:
        return _steps(axis, low, high)
    return tuple((v, short(axis.quantity, v)) for v in values)


def _steps(axis: Axis, low: float, high: float) -> tuple[tuple[float, str], ...]:
    rough = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    first = math.ceil(low / step)
    values = [n * step for n in range(first, math.floor(high / step) + 1)]
    return tuple((v, short(axis.quantity, v)) for v in values)


def short(quantity: Quantity, value: float) -> str:
    """`1 ms` instead of `1.00 ms`."""
    text = measure(quantity, value)
    number, _, unit = text.partition("\N{NO-BREAK SPACE}")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    # units that are long stand in the title alone
    unit = unit.removesuffix("tokens/s").removesuffix("FLOPs/B").strip()
    return f"{number}\N{NO-BREAK SPACE}{unit}" if unit else number


def tokens_axis(title: str, sizes: Mapping[int, int | None]) -> Axis:
    """Axis of token counts; `sizes` maps tokens to the image side in pixels, or to None."""
    return Axis(
        title=title,
        quantity="count",
        log=True,
        ticks=tuple(
            (float(n), whole(n) if px is None else f"{px} px") for n, px in sorted(sizes.items())
        ),
    )
