"""Where one execution starts to beat another: states that a table can say in words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from bench.curves import crossover
from bench.derived import Standing, apart
from leaderboard.ranking import noise_floor
from leaderboard.results import Result

Kind = Literal[
    "always", "never", "from", "surely", "up to", "partly", "equal", "undecided", "alone",
    "incomparable",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """How one execution stands against the baseline in one quantity of which less is better."""

    kind: Kind
    tokens: float | None = None
    """For `from` and `up to`: about where; for `alone` and `surely`: from this measured size on."""
    low: float | None = None
    """The order may change from here on."""
    high: float | None = None
    """From here on it has changed."""
    ratio: float | None = None
    """Its value over the baseline's at the largest shared size."""
    exact: bool = False
    """The quantity has no noise: what is not less or more is the same."""


def against(
    mine: Sequence[Result], baseline: Sequence[Result], metric: str, *, varies: bool
) -> Against:
    """Compare two executions over the sizes at which both were measured.

    Args:
        mine: one execution over sizes.
        baseline: what it is compared with.
        metric: a quantity of which less is better.
        varies: whether the quantity has noise.
    """
    return replace(_against(mine, baseline, metric, varies=varies), exact=not varies)


def _against(
    mine: Sequence[Result], baseline: Sequence[Result], metric: str, *, varies: bool
) -> Against:
    ours, theirs = _measured(mine, metric), _measured(baseline, metric)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return Against(kind="incomparable")
    first = [ours[n].numbers[metric].standing for n in shared]
    second = [theirs[n].numbers[metric].standing for n in shared]
    # sizes may come from different runs: what is noise at one is none at another
    floors = [noise_floor([ours[n], theirs[n]]) for n in shared]
    signs = [_sign(a, b, floor, varies) for a, b, floor in zip(first, second, floors, strict=True)]
    ratio = first[-1].value / second[-1].value
    if all(sign < 0 for sign in signs):
        return Against(kind="always", ratio=ratio)
    changed = _changed(shared, signs, first, second, varies=varies)
    if changed is not None:
        kind, tokens, low, high = changed
        return Against(kind=kind, tokens=tokens, low=low, high=high, ratio=ratio)
    beyond = [n for n in ours if n > shared[-1]]
    if beyond and any(not r.ok and (r.tokens or 0) in beyond for r in baseline):
        return Against(kind="alone", tokens=float(min(beyond)), ratio=ratio)
    if signs[-1] < 0:
        # never decided against it: where its lead begins is hidden in the noise of small sizes
        since = next(n for n, rest in _tails(shared, signs) if all(sign < 0 for sign in rest))
        return Against(kind="surely", tokens=float(since), ratio=ratio)
    if any(sign > 0 for sign in signs):
        return Against(kind="never", ratio=ratio)
    if any(signs):
        return Against(kind="partly", ratio=ratio)
    same = not varies
    return Against(kind="equal" if same else "undecided", ratio=ratio)


def _tails(tokens: Sequence[int], signs: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    """Each size with the signs from it on."""
    for at, size in enumerate(tokens):
        yield size, signs[at:]


def _measured(results: Sequence[Result], metric: str) -> Mapping[int, Result]:
    return {r.tokens: r for r in results if r.ranked and metric in r.numbers and r.tokens}


def _sign(a: Standing, b: Standing, floor: float | None, varies: bool) -> int:
    """-1: the first needs less; 1: more; 0: they cannot be told apart."""
    if not apart(a, b, noise_floor=floor, varies=varies):
        return 0
    return -1 if a.value < b.value else 1


def _changed(
    tokens: Sequence[int],
    signs: Sequence[int],
    first: Sequence[Standing],
    second: Sequence[Standing],
    *,
    varies: bool,
) -> tuple[Literal["from", "up to"], float, float, float] | None:
    """Where the order certainly changes between decided sizes; None where it does not."""
    decided = [at for at, sign in enumerate(signs) if sign]
    flips = [(a, b) for a, b in pairwise(decided) if signs[a] != signs[b]]
    if not flips:
        return None
    before, after = flips[-1]
    kind: Literal["from", "up to"] = "from" if signs[after] < 0 else "up to"
    low, high = float(tokens[before]), float(tokens[after])
    place = slice(before, after + 1)
    found = crossover(tokens[place], first[place], second[place])
    if found is None:
        return kind, math.sqrt(low * high), low, high
    if varies:
        low = max(low, found.low) if found.low is not None else low
        high = min(high, found.high) if found.high is not None else high
    return kind, found.tokens, min(low, found.tokens), max(high, found.tokens)
