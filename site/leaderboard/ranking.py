"""Rankings within one context, one size and one kind of function; never across them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.derived import Standing, apart, ranks
from leaderboard.results import EXACTNESS_TITLES, Exactness, Result, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One result and where it stands."""

    result: Result
    rank: int | None
    """None: failed, stale, implausible, or without the number that ranks."""
    tied: bool
    """Shares its rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All results of one kind of function, best first, unranked last."""

    exactness: Exactness
    placed: tuple[Placed, ...]

    @property
    def ranked(self) -> tuple[Placed, ...]:
        """Those with a rank."""
        return tuple(p for p in self.placed if p.rank is not None)


def noise_floor(results: Iterable[Result]) -> float | None:
    """Return the largest noise floor of the runs that `results` come from; None where unknown."""
    floors = [r.noise_floor for r in results if r.noise_floor is not None]
    return max(floors, default=None)


def ranks_by(policy: str) -> tuple[str, Literal["lower", "higher"]]:
    """Return what ranks under a batch policy, and its direction.

    Where the batch is not 1 it may differ between rows: then tokens per second rank.
    """
    return ("latency", "lower") if policy == "one" else ("throughput", "higher")


def grouped(
    view: View, results: Sequence[Result], *, metric: str, better: Literal["lower", "higher"]
) -> tuple[Group, ...]:
    """Rank `results` by `metric` within each kind of function; kinds without results are left out.

    Args:
        view: knows which function a variant computes.
        results: of one context and one size.
        metric: what ranks.
        better: its direction.
    """
    floor = noise_floor(results)
    column = view.columns.get(metric)
    groups: list[Group] = []
    for exactness in EXACTNESS_TITLES:
        members = [r for r in results if view.exactness(r.variant) == exactness]
        able = [r for r in members if r.ranked and metric in r.numbers]
        unable = [r for r in members if not (r.ranked and metric in r.numbers)]
        found = ranks(
            [r.numbers[metric].standing for r in able],
            better=better,
            noise_floor=floor,
            varies=True if column is None else column.varies,
        )
        sign = 1 if better == "lower" else -1
        order = sorted(
            zip(able, found, strict=True),
            key=lambda pair: (pair[1], sign * pair[0].numbers[metric].value, pair[0].case_id),
        )
        shared = Counter(found)
        placed = [Placed(result=r, rank=n, tied=shared[n] > 1) for r, n in order]
        rest = sorted(unable, key=lambda r: (not r.ok, r.variant, r.case_id))
        placed += [Placed(result=r, rank=None, tied=False) for r in rest]
        if placed:
            groups.append(Group(exactness=exactness, placed=tuple(placed)))
    return tuple(groups)


def verdict(mine: Standing, base: Standing, floor: float | None) -> str:
    """Return `faster`, `slower` or `undecided`: the rule by which rows share ranks."""
    if not apart(mine, base, noise_floor=floor, varies=True):
        return "undecided"
    return "faster" if mine.value < base.value else "slower"


def baseline(results: Iterable[Result], metric: str) -> Result | None:
    """Return softmax by PyTorch's SDPA, else its plain reference: what ratios are taken to."""
    able = [
        r
        for r in results
        if r.variant == "softmax" and r.ranked and not r.options and metric in r.numbers
    ]
    for backend in ("sdpa", "reference"):
        for result in able:
            if result.backend == backend:
                return result
    return None
