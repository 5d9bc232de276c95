"""The only place where base units get prefixes and numbers become text. No locale, no clock."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

Quantity = Literal[
    "s", "byte", "flop", "mac", "count", "j", "w", "hz", "celsius", "fraction", "relative",
    "token/s", "image/s", "flop/s", "byte/s", "op/s", "ratio", "flop/byte", "number",
]  # fmt: skip

MISSING = "\N{EN DASH}"
"""What a cell says where there is no number and another cell says why."""

_DECIMAL_UP = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "\N{MICRO SIGN}s"), (1e-9, "ns"))
_BYTES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _prefixed(unit: str) -> tuple[tuple[float, str], ...]:
    return tuple((factor, f"{prefix}{unit}") for factor, prefix in _DECIMAL_UP)


_STEPS: dict[Quantity, tuple[tuple[float, str], ...]] = {
    "s": _SECONDS,
    "byte": _BYTES,
    "flop": _prefixed("FLOPs"),
    "mac": _prefixed("MACs"),
    "count": ((1.0, ""),),
    "j": ((1.0, "J"), (1e-3, "mJ")),
    "w": ((1.0, "W"),),
    "hz": ((1e9, "GHz"), (1e6, "MHz")),
    "celsius": ((1.0, "\N{DEGREE SIGN}C"),),
    "fraction": ((1e-2, "%"),),
    "relative": ((1.0, ""),),
    "token/s": tuple((f, f"{p} tokens/s".strip()) for f, p in _DECIMAL_UP),
    "image/s": ((1.0, "images/s"),),
    "flop/s": _prefixed("FLOP/s"),
    "byte/s": _prefixed("B/s"),
    "op/s": _prefixed("op/s"),
    "ratio": ((1.0, "\N{MULTIPLICATION SIGN}"),),
    "flop/byte": ((1.0, "FLOPs/B"),),
    "number": ((1.0, ""),),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """One prefix for a whole column, so that its numbers compare at a glance."""

    quantity: Quantity
    factor: float
    """Size of the printed unit in base units."""
    unit: str
    """The printed unit; empty for plain numbers."""

    def text(self, value: float) -> str:
        """Return `value` (base units) as a number of this scale, without the unit."""
        if self.quantity == "relative":
            return scientific(value)
        if self.quantity == "count":
            return whole(round(value))
        if self.quantity == "fraction":
            return per_cent(value)
        return significant(value / self.factor)

    def with_unit(self, value: float) -> str:
        """Return `value` (base units) with the unit."""
        joint = "" if self.quantity == "ratio" or not self.unit else "\N{NO-BREAK SPACE}"
        return f"{self.text(value)}{joint}{self.unit}"


def known_quantity(unit: str | None) -> Quantity:
    """Return the quantity of a metric's base unit; a unit of no known kind reads as a number."""
    for quantity in _STEPS:
        if quantity == unit:
            return quantity
    return "number"


def scale_for(quantity: Quantity, values: Iterable[float]) -> Scale:
    """Return the prefix under which the middle one of `values` reads as 1 to 999."""
    sizes = sorted(abs(value) for value in values if value)
    steps = _STEPS[quantity]
    middle = sizes[(len(sizes) - 1) // 2] if sizes else steps[-1][0]
    factor, unit = next((step for step in steps if middle >= step[0]), steps[-1])
    return Scale(quantity, factor, unit)


def measure(quantity: Quantity, value: float) -> str:
    """Return one number with the prefix that suits it best, e.g. `1.23 ms`."""
    return scale_for(quantity, (value,)).with_unit(value)


def span(quantity: Quantity, low: float, high: float) -> str:
    """Return an interval with one unit, e.g. `1.21 to 1.25 ms`."""
    scale = scale_for(quantity, (low, high))
    return f"{scale.text(low)} to {scale.with_unit(high)}"


def significant(value: float, digits: int = 3) -> str:
    """Return `value` with `digits` significant digits, thousands separated, no exponent.

    Rounded once, half away from zero, as the pages' scripts do.
    """
    if value == 0:
        return "0"
    exact = Decimal(value)
    rounded = _rounded(exact, exact.adjusted() - digits + 1)
    # 9.999 has become 10.00, which is a digit too many
    last = rounded.adjusted() - digits + 1
    return f"{_rounded(rounded, last):,.{max(0, -last)}f}"


def _rounded(value: Decimal, last: int) -> Decimal:
    """Round to the power of ten `last`."""
    return value.quantize(Decimal(1).scaleb(last), ROUND_HALF_UP)


def decimal(value: float, places: int = 2) -> str:
    """Return `value` with a fixed number of decimals, with a true minus sign."""
    return f"{value:,.{places}f}".replace("-", "\N{MINUS SIGN}")


def whole(value: int) -> str:
    """Return an integer with separated thousands."""
    return f"{value:,}"


def scientific(value: float) -> str:
    """Return `value` as `1.2 x 10^-6`, typeset."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    return f"{mantissa}\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}10{power}"


def per_cent(fraction: float) -> str:
    """Return a share as per cent with one decimal, without the sign: `98.4`.

    What is not all, and what is not nothing, never reads so: `99.95`, `0.02`.
    """
    for places in range(1, 5):
        text = f"{100 * fraction:.{places}f}"
        if (float(text) == 100) == (fraction == 1) and (float(text) == 0) == (fraction == 0):
            return text
    return f"{100 * fraction:.1f}"


def percent(fraction: float) -> str:
    """Return a fraction of 1 as per cent with two significant digits, e.g. `1.8 %`."""
    return f"{significant(100 * fraction, 2)}\N{NO-BREAK SPACE}%"


def count_of(number: int, singular: str, plural: str | None = None) -> str:
    """Return `1 round`, `3 rounds`."""
    return f"{whole(number)} {singular if number == 1 else plural or singular + 's'}"


def listed(words: Iterable[str]) -> str:
    """Return words as an English list: `a`, `a and b`, `a, b and c`."""
    items = tuple(words)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def power(order: float) -> str:
    """Return how a cost grows in tokens, as in "N" and "N²"."""
    digits = str.maketrans("0123456789.", "⁰¹²³⁴⁵⁶⁷⁸⁹·")
    return "N" if order == 1 else f"N{f'{order:g}'.translate(digits)}"


def day(instant: str) -> str:
    """Return the date of an ISO instant, `2026-11-21`."""
    return instant[:10]


def minute(instant: str) -> str:
    """Return date and time of an ISO instant in UTC, `2026-11-21 05:40`."""
    return f"{instant[:10]} {instant[11:16]}"
