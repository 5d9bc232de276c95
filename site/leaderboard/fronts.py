"""The best trade-offs: what nothing beats in both, and what shares their place within the noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.derived import Standing, apart
from leaderboard.figure_data import Point


def frontier(points: Sequence[Point], *, more: bool) -> tuple[Point, ...]:
    """Return the points that none beats in both, by x.

    Args:
        points: y is what more is better of.
        more: whether more is better of x, too.
    """
    found: list[Point] = []
    sign = -1.0 if more else 1.0
    for point in sorted(points, key=lambda p: (sign * p.x, -p.y)):
        if not found or point.y > found[-1].y:
            found.append(point)
    return tuple(sorted(found, key=lambda p: p.x))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One variant with both sides of the trade-off."""

    accuracy: Standing
    cost: Standing
    noise_floor: float | None
    """Of the run that measured the cost."""


def shared_front(
    candidates: Mapping[str, Candidate], *, more: bool, varies: bool
) -> frozenset[str]:
    """Return the variants that none surely beats: those beaten within the noise share the front.

    One beats another if it is no worse in either, and told apart in at least one.

    Args:
        candidates: by variant.
        more: more of the cost is better (throughput).
        varies: the cost has noise.
    """
    sign = -1.0 if more else 1.0

    def beats(one: Candidate, other: Candidate) -> bool:
        if one.accuracy.value < other.accuracy.value:
            return False
        if sign * one.cost.value > sign * other.cost.value:
            return False
        floor = max(one.noise_floor or 0.0, other.noise_floor or 0.0) or None
        return apart(one.accuracy, other.accuracy, noise_floor=None, varies=True) or apart(
            one.cost, other.cost, noise_floor=floor, varies=varies
        )

    return frozenset(
        name
        for name, mine in candidates.items()
        if not any(beats(other, mine) for other in candidates.values())
    )
