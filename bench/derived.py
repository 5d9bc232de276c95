"""Statistics computed from samples and never stored. Imports no torch.

The unit of evidence is a round: a new process, a new place in the shuffled order. Samples within a
round share everything that can be wrong with it, so intervals come from round medians alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, median, stdev
from typing import Literal

from scipy.special import stdtrit

from bench.model import RepeatedCase

LEAST_ROUNDS = 3
"""Round medians below which there is no interval."""
CONFIDENCE = 0.95
NOISE_QUANTILE = 0.9
"""Share of A/A comparisons that lie within the noise floor."""
LEAST_NOISE_PAIRS = 3
"""A/A cases below which a run has no noise floor."""

Verdict = Literal["faster", "slower", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Samples of one metric of one case, summarised."""

    value: float
    """Median of the round medians."""
    low: float | None
    """Lower end of the 95 % interval; None with fewer than three rounds."""
    high: float | None
    p10: float
    """10 % of all samples lie below."""
    p90: float
    samples: int
    medians: tuple[float, ...]
    """One a round."""


def summary(rounds: Sequence[Sequence[float]]) -> Summary:
    """Summarise samples, given as one sequence a round.

    Raises:
        ValueError: a round without samples, or no round.
    """
    medians = tuple(float(median(samples)) for samples in rounds if samples)
    if not medians or len(medians) != len(rounds):
        raise ValueError(f"{len(rounds)} rounds, {len(medians)} with samples: each needs one")
    pooled = sorted(float(sample) for samples in rounds for sample in samples)
    ends = interval(medians)
    return Summary(
        value=median(medians),
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        p10=quantile(pooled, 0.1),
        p90=quantile(pooled, 0.9),
        samples=len(pooled),
        medians=medians,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of `values` lie, linearly interpolated."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of the centre of independent `values`; None with fewer than three.

    On the logarithm where all values are positive (ratios are what is compared), else as they are.
    The centre is the mean there, so the interval need not be symmetric about the median. Counts
    that were zero in a round have an interval that ends at zero: less than nothing cannot be.
    """
    if len(values) < LEAST_ROUNDS:
        return None
    positive = min(values) > 0
    scaled = [math.log(value) if positive else value for value in values]
    half = student(len(scaled) - 1) * stdev(scaled) / math.sqrt(len(scaled))
    low, high = fmean(scaled) - half, fmean(scaled) + half
    if positive:
        return math.exp(low), math.exp(high)
    return (max(0.0, low) if min(values) >= 0 else low), high


def student(degrees: float) -> float:
    """Two-sided 95 % point of Student's t."""
    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))


# Noise and drift ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What two runs of the very same case differ by; both are |ln ratio| of medians."""

    interleaved: float
    """As measured here: both sides take turns in every round."""
    sequential: float
    """The same visits, the first half against the second: one side after the other."""
    cases: int


def noise(pairs: Sequence[RepeatedCase]) -> Noise | None:
    """Noise floor from A/A pairs; None with fewer than three cases that ran twice a round.

    Under A/A the two visits of a round are exchangeable, so every way of calling one of them A is
    an equally good comparison: with three rounds a case gives four.
    """
    usable = [pair for pair in pairs if all(len(visits) == 2 for visits in pair.latencies_s)]
    if len(usable) < LEAST_NOISE_PAIRS:
        return None
    interleaved = [value for pair in usable for value in _swapped_ratios(pair.latencies_s)]
    sequential = [_halves_ratio(pair.latencies_s) for pair in usable]
    return Noise(
        interleaved=quantile(interleaved, NOISE_QUANTILE),
        sequential=quantile(sequential, NOISE_QUANTILE),
        cases=len(usable),
    )


def _swapped_ratios(rounds: Sequence[Sequence[float]]) -> list[float]:
    first, *others = rounds
    ratios: list[float] = []
    for swaps in product((False, True), repeat=len(others)):
        sides = [first, *(v[::-1] if swap else v for v, swap in zip(others, swaps, strict=True))]
        a, b = (median(visits[side] for visits in sides) for side in (0, 1))
        ratios.append(abs(math.log(a / b)))
    return ratios


def _halves_ratio(rounds: Sequence[Sequence[float]]) -> float:
    visits = [latency for visits in rounds for latency in visits]
    half = len(visits) // 2
    return abs(math.log(median(visits[:half]) / median(visits[-half:])))


def drift(repeated: RepeatedCase) -> tuple[float, float] | None:
    """How a case that was visited again and again moved; None with fewer than three visits.

    Returns:
        Relative change from the first visit to the last along the Theil-Sen line (the median of
        all slopes: a single bad visit does not move it), and (largest - smallest) / median.
    """
    visits = [latency for visits in repeated.latencies_s for latency in visits]
    if len(visits) < LEAST_ROUNDS:
        return None
    logs = [math.log(latency) for latency in visits]
    slope = median(
        (logs[j] - logs[i]) / (j - i) for i in range(len(logs)) for j in range(i + 1, len(logs))
    )
    return math.expm1(slope * (len(logs) - 1)), (max(visits) - min(visits)) / median(visits)


# Comparing ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is needed to rank one row."""

    value: float
    low: float | None
    high: float | None

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval, where there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def ranks(
    rows: Sequence[Standing],
    *,
    better: Literal["lower", "higher"],
    noise_floor: float | None,
    varies: bool,
) -> tuple[int, ...]:
    """Competition ranks (1, 1, 3) in the order of `rows`; rows that cannot be told apart share one.

    Rows are walked from the best. The first row of a rank leads it; a following row shares the rank
    as long as it cannot be told from the leader (not: from its neighbour, so that a chain of small
    steps cannot tie the best with the worst). Two rows are told apart if their values differ by
    more than the noise floor and their intervals do not overlap. Without noise floor and intervals
    nothing is known, and rows tie. Quantities that do not vary are told apart by being different.
    """
    order = sorted(
        range(len(rows)), key=lambda i: rows[i].value if better == "lower" else -rows[i].value
    )
    found = [0] * len(rows)
    leader, leader_rank = None, 0
    for position, index in enumerate(order, start=1):
        row = rows[index]
        if leader is None or apart(leader, row, noise_floor=noise_floor, varies=varies):
            leader, leader_rank = row, position
        found[index] = leader_rank
    return tuple(found)


def apart(a: Standing, b: Standing, *, noise_floor: float | None, varies: bool) -> bool:
    """Whether two rows can be told apart (see `ranks`)."""
    if not varies or a.value == b.value:
        return a.value != b.value
    known = False
    if noise_floor is not None and a.value > 0 and b.value > 0:
        known = True
        if abs(math.log(a.value / b.value)) <= noise_floor:
            return False
    if a.ends and b.ends:
        known = True
        if a.ends[0] <= b.ends[1] and b.ends[0] <= a.ends[1]:
            return False
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Latency (or any positive quantity of which less is better) of one side over another's."""

    ratio: float
    """Below 1: the first is faster."""
    low: float | None
    high: float | None
    verdict: Verdict
    """Of the first; `undecided` within the noise or without an interval."""


def compare(
    first: Sequence[float], second: Sequence[float], *, noise_floor: float | None
) -> Comparison:
    """Compare two sets of positive round medians by Welch's t on the logarithm.

    Decided only if the whole 95 % interval of the ratio lies on one side of 1 and the ratio itself
    is outside the noise floor.
    """
    a, b = ([math.log(value) for value in values] for values in (first, second))
    ratio = median(first) / median(second)
    if min(len(a), len(b)) < LEAST_ROUNDS:
        return Comparison(ratio=ratio, low=None, high=None, verdict="undecided")
    parts = [stdev(side) ** 2 / len(side) for side in (a, b)]
    error = math.sqrt(sum(parts))
    half = 0.0
    if error > 0:
        spread = sum(p**2 / (len(side) - 1) for p, side in zip(parts, (a, b), strict=True))
        half = student(sum(parts) ** 2 / spread) * error
    centre = fmean(a) - fmean(b)
    low, high = math.exp(centre - half), math.exp(centre + half)
    verdict: Verdict = "undecided"
    if abs(math.log(ratio)) > (noise_floor or 0.0):
        verdict = "faster" if high < 1 else "slower" if low > 1 else "undecided"
    return Comparison(ratio=ratio, low=low, high=high, verdict=verdict)


def mean_of_seeds(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean over seeds with its 95 % t-interval, kept within 0..1; no interval below three seeds."""
    if len(values) < LEAST_ROUNDS:
        return fmean(values), None, None
    half = student(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values), max(0.0, fmean(values) - half), min(1.0, fmean(values) + half)
