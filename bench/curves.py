"""What a series over sizes says: scaling exponents and crossovers. Imports no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

from bench.derived import Standing, student

LEAST_SIZES = 3
"""Sizes below which a slope has no interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponent:
    """Slope of a quantity against tokens on log-log axes."""

    value: float
    low: float
    high: float
    points: int
    smallest_tokens: int
    """The slope holds from here on; below, fixed costs hide it."""


def exponent(
    tokens: Sequence[int], values: Sequence[float], *, most_points: int = 4
) -> Exponent | None:
    """Least-squares slope over the largest sizes, with 95 % interval; None below three sizes."""
    points = sorted(zip(tokens, values, strict=True))[-most_points:]
    if len({size for size, _ in points}) < LEAST_SIZES:
        return None
    x = [math.log(size) for size, _ in points]
    y = [math.log(value) for _, value in points]
    width = sum((a - fmean(x)) ** 2 for a in x)
    slope = sum((a - fmean(x)) * (b - fmean(y)) for a, b in zip(x, y, strict=True)) / width
    offset = fmean(y) - slope * fmean(x)
    residual = sum((b - offset - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    half = student(len(x) - 2) * math.sqrt(residual / (len(x) - 2) / width)
    return Exponent(
        value=slope,
        low=slope - half,
        high=slope + half,
        points=len(x),
        smallest_tokens=points[0][0],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """Where one curve passes below another, between measured sizes."""

    tokens: float
    low: float | None
    """From here on the order may already have changed; None: not bracketed by measured sizes."""
    high: float | None
    """From here on it certainly has; None: not certain up to the largest measured size."""
    better_beyond: Literal["first", "second"]
    """The lower curve at the larger sizes."""
    crossings: int
    """How often the curves cross; this is the last."""


def crossover(
    tokens: Sequence[int], first: Sequence[Standing], second: Sequence[Standing]
) -> Crossover | None:
    """Last crossing of two curves measured at the same sizes; None where they do not cross.

    Interpolated linearly on log-log axes between neighbouring sizes, never beyond them. The
    interval is where the ends of the ratio's interval cross 1.
    """
    order = sorted(range(len(tokens)), key=tokens.__getitem__)
    x = [math.log(tokens[i]) for i in order]
    ratio = [math.log(first[i].value / second[i].value) for i in order]
    crossings = _roots(x, ratio)
    if not crossings:
        return None
    sign = 1.0 if ratio[-1] > 0 else -1.0
    bounds = [_signed_bounds(sign, first[i], second[i]) for i in order]
    known = [ends for ends in bounds if ends is not None]
    complete = len(known) == len(bounds)
    early = _roots(x, [upper for _, upper in known]) if complete else []
    late = _roots(x, [lower for lower, _ in known]) if complete else []
    return Crossover(
        tokens=math.exp(crossings[-1]),
        low=math.exp(early[-1]) if early else None,
        high=math.exp(late[-1]) if late else None,
        better_beyond="second" if sign > 0 else "first",
        crossings=len(crossings),
    )


def _signed_bounds(sign: float, a: Standing, b: Standing) -> tuple[float, float] | None:
    """Lower and upper end of sign * ln(a / b); None where a value has no interval."""
    if not a.ends or not b.ends:
        return None
    low, high = math.log(a.ends[0] / b.ends[1]), math.log(a.ends[1] / b.ends[0])
    return (low, high) if sign > 0 else (-high, -low)


def _roots(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Where the line through the points passes from one sign to the other, in order of x."""
    found: list[float] = []
    last = None
    for i, value in enumerate(y):
        if value == 0:
            continue
        if last is not None and (y[last] > 0) != (value > 0):
            found.append(x[last] + (x[i] - x[last]) * y[last] / (y[last] - value))
        last = i
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """The most tokens whose memory stays within a budget, read off measured sizes."""

    tokens: float
    extrapolated: bool
    """Beyond the largest measured size: the slope of the last two sizes was carried on."""


def fitting(tokens: Sequence[int], needed: Sequence[float], budget: float) -> Fitting | None:
    """Most tokens within `budget` by memory that grows with tokens, log-log between sizes.

    Args:
        tokens: measured sizes, in any order.
        needed: bytes that one call needs at each.
        budget: bytes.

    Returns:
        None below two sizes, or where even the smallest measured size needs more than the budget.
    """
    points = sorted((n, b) for n, b in zip(tokens, needed, strict=True) if b > 0)
    if len(points) < LEAST_SIZES - 1 or points[0][1] > budget:
        return None
    for (n, b), (next_n, next_b) in pairwise(points):
        if next_b > budget:
            return Fitting(tokens=n * (next_n / n) ** _share(b, next_b, budget), extrapolated=False)
    (n, b), (last_n, last_b) = points[-2:]
    if last_b <= b:
        return None
    tokens_there = n * (last_n / n) ** _share(b, last_b, budget)
    return Fitting(tokens=tokens_there, extrapolated=last_b < budget)


def _share(low: float, high: float, wanted: float) -> float:
    return math.log(wanted / low) / math.log(high / low)
