"""Statistics against independent computations and against what must not happen."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_run import sample_header
from scipy import stats

from bench.curves import crossover, exponent
from bench.derived import (
    Standing,
    apart,
    compare,
    drift,
    interval,
    mean_of_seeds,
    noise,
    quantile,
    ranks,
    summary,
)
from bench.model import RepeatedCase

positive = st.floats(1e-6, 1e3)


def standing(value: float, half: float | None = None) -> Standing:
    if half is None:
        return Standing(value=value, low=None, high=None)
    return Standing(value=value, low=value - half, high=value + half)


def repeated(*rounds: tuple[float, ...]) -> RepeatedCase:
    return RepeatedCase(case=sample_header().conditions.noise[0].case, latencies_s=rounds)


# Summaries ----------------------------------------------------------------------------------------


def test_value_is_the_median_of_round_medians() -> None:
    found = summary([[1.0, 2.0, 100.0], [3.0, 3.0], [2.5, 2.5, 2.5]])
    assert found.medians == (2.0, 3.0, 2.5)
    assert found.value == 2.5
    assert found.samples == 8


def test_interval_is_the_t_interval_of_the_logarithms() -> None:
    medians = [1.0, 1.1, 1.3, 1.05]
    logs = np.log(medians)
    low, high = stats.t.interval(0.95, 3, loc=logs.mean(), scale=stats.sem(logs))
    assert interval(medians) == pytest.approx((math.exp(low), math.exp(high)))


def test_interval_with_zeros_is_linear_and_ends_at_zero() -> None:
    """73,368 page faults in one round and 14,674 in another are not -56,314 at the least."""
    values = [0.0, 1.0, 2.0]
    low, high = stats.t.interval(0.95, 2, loc=1.0, scale=stats.sem(values))
    assert low < 0
    assert interval(values) == pytest.approx((0.0, high))
    signed = [-1.0, 0.0, 1.0]
    ends = stats.t.interval(0.95, 2, loc=0.0, scale=stats.sem(signed))
    assert interval(signed) == pytest.approx(ends)


def test_two_rounds_give_no_interval() -> None:
    found = summary([[1.0, 1.2], [1.1]])
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize("rounds", [[], [[1.0], []]])
def test_rounds_without_samples_are_an_error(rounds: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="each needs one"):
        summary(rounds)


def test_interval_comes_from_rounds_not_from_samples() -> None:
    """A thousand agreeing samples in a round do not make three disagreeing rounds agree."""
    few, many = (summary([[1.0] * n, [1.2] * n, [1.4] * n]) for n in (1, 1000))
    assert (few.low, few.high) == (many.low, many.high)


def test_coverage_of_the_interval() -> None:
    """Of many experiments with a known centre, 95 % of the intervals hold it."""
    draws = np.random.default_rng(0).lognormal(0.0, 0.1, size=(2000, 4))
    held = sum((low <= 1.0 <= high) for low, high in (interval(d.tolist()) for d in draws))
    assert 0.93 < held / 2000 < 0.97


@given(st.lists(positive, min_size=1, max_size=30), st.floats(0, 1))
def test_quantile_is_numpys(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(np.quantile(values, share), rel=1e-9)


@given(st.lists(st.lists(positive, min_size=1, max_size=5), min_size=3, max_size=5), positive)
def test_units_do_not_matter(rounds: list[list[float]], scale: float) -> None:
    one, other = summary(rounds), summary([[scale * s for s in r] for r in rounds])
    assert other.value == pytest.approx(scale * one.value)
    assert other.low == pytest.approx(scale * one.low)
    assert other.p90 == pytest.approx(scale * one.p90)


# Noise and drift ----------------------------------------------------------------------------------


def test_noise_of_identical_visits_is_zero() -> None:
    found = noise([repeated((1.0, 1.0), (1.0, 1.0), (1.0, 1.0))] * 3)
    assert found is not None
    assert (found.interleaved, found.sequential, found.cases) == (0.0, 0.0, 3)


def test_noise_needs_three_pairs() -> None:
    assert noise([repeated((1.0, 1.1), (1.0, 1.1))] * 2) is None
    assert noise([repeated((1.0,), (1.0,))] * 5) is None


def test_drift_shows_in_the_sequential_noise_and_not_in_the_interleaved() -> None:
    pairs = [repeated((1.0, 1.01), (1.2, 1.21), (1.4, 1.41))] * 3
    found = noise(pairs)
    assert found is not None
    assert found.interleaved < 0.02 < 0.3 < found.sequential


def test_noise_measures_a_real_difference_between_visits() -> None:
    generator = np.random.default_rng(1)
    pairs = [
        repeated(*(tuple(row) for row in generator.lognormal(0, 0.05, size=(3, 2)).tolist()))
        for _ in range(40)
    ]
    found = noise(pairs)
    assert found is not None
    assert 0.05 < found.interleaved < 0.15


def test_drift_of_a_steady_slowdown() -> None:
    visits = [1.0 * 1.01**n for n in range(11)]
    change, spread = drift(repeated(*((v,) for v in visits))) or (0, 0)
    assert change == pytest.approx(1.01**10 - 1)
    assert spread == pytest.approx((visits[-1] - visits[0]) / visits[5])


def test_one_bad_visit_is_no_drift() -> None:
    change, spread = drift(repeated(*((v,) for v in [1.0] * 5 + [3.0] + [1.0] * 5))) or (1, 0)
    assert change == 0
    assert spread == 2.0


def test_two_visits_show_no_drift() -> None:
    assert drift(repeated((1.0,), (2.0,))) is None


# Ranks --------------------------------------------------------------------------------------------


def test_competition_ranks_with_ties() -> None:
    rows = [standing(v, 0.01) for v in (3.0, 1.0, 1.005, 2.0)]
    assert ranks(rows, better="lower", noise_floor=0.02, varies=True) == (4, 1, 1, 3)
    assert ranks(rows, better="higher", noise_floor=0.02, varies=True) == (1, 3, 3, 2)


def test_a_chain_of_small_steps_does_not_tie_first_and_last() -> None:
    rows = [standing(1.0 + 0.03 * n, 0.0) for n in range(4)]
    assert ranks(rows, better="lower", noise_floor=0.04, varies=True) == (1, 1, 3, 3)


def test_overlapping_intervals_tie_even_far_apart() -> None:
    rows = [standing(1.0, 0.5), standing(1.4, 0.1)]
    assert ranks(rows, better="lower", noise_floor=0.01, varies=True) == (1, 1)


def test_within_the_noise_floor_tight_intervals_tie() -> None:
    rows = [standing(1.0, 1e-4), standing(1.01, 1e-4)]
    assert ranks(rows, better="lower", noise_floor=0.02, varies=True) == (1, 1)
    assert ranks(rows, better="lower", noise_floor=0.001, varies=True) == (1, 2)


def test_without_any_evidence_all_tie() -> None:
    rows = [standing(1.0), standing(9.0)]
    assert ranks(rows, better="lower", noise_floor=None, varies=True) == (1, 1)


def test_exact_quantities_tie_only_when_equal() -> None:
    rows = [standing(2), standing(1), standing(1), standing(3)]
    assert ranks(rows, better="lower", noise_floor=0.5, varies=False) == (3, 1, 1, 4)


def test_no_rows_no_ranks() -> None:
    assert ranks([], better="lower", noise_floor=None, varies=True) == ()


@given(st.lists(st.tuples(positive, st.floats(0, 0.5)), max_size=12), st.floats(0, 0.3))
def test_ranks_are_consistent(rows: list[tuple[float, float]], floor: float) -> None:
    standings = [Standing(value=v, low=v * (1 - w), high=v * (1 + w)) for v, w in rows]
    found = ranks(standings, better="lower", noise_floor=floor, varies=True)
    order = sorted(range(len(rows)), key=lambda i: standings[i].value)
    assert [found[i] for i in order] == sorted(found)
    for i in order:
        better = sum(found[j] < found[i] for j in order)
        assert found[i] == better + 1
        leader = next(j for j in order if found[j] == found[i])
        if leader != i:
            kind = {"noise_floor": floor, "varies": True}
            assert not apart(standings[leader], standings[i], **kind)


# Comparing ----------------------------------------------------------------------------------------


def test_compare_is_welch_on_logarithms() -> None:
    a, b = [1.0, 1.05, 1.02, 0.99], [1.3, 1.28, 1.35]
    wanted = stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(0.95)
    found = compare(a, b, noise_floor=None)
    assert (found.low, found.high) == pytest.approx((math.exp(wanted.low), math.exp(wanted.high)))
    assert found.verdict == "faster"
    assert compare(b, a, noise_floor=None).verdict == "slower"


def test_within_the_noise_nothing_is_decided() -> None:
    a, b = [1.0, 1.0001, 1.0002], [1.01, 1.0101, 1.0102]
    assert compare(a, b, noise_floor=None).verdict == "faster"
    assert compare(a, b, noise_floor=0.05).verdict == "undecided"


def test_two_rounds_decide_nothing() -> None:
    assert compare([1.0, 1.0], [2.0, 2.0], noise_floor=None).verdict == "undecided"


def test_rounds_without_spread_are_decided() -> None:
    assert compare([1.0] * 3, [2.0] * 3, noise_floor=None).verdict == "faster"
    assert compare([1.0] * 3, [1.0] * 3, noise_floor=None).verdict == "undecided"


def test_seeds_stay_within_0_and_1() -> None:
    mean, low, high = mean_of_seeds([0.999, 1.0, 0.99])
    assert mean == pytest.approx(0.99633, abs=1e-5)
    assert low is not None
    assert low < mean
    assert high == 1.0
    assert mean_of_seeds([0.9, 0.8]) == (pytest.approx(0.85), None, None)


# Curves -------------------------------------------------------------------------------------------


def test_exponent_of_a_power_law_is_exact() -> None:
    tokens = [256, 1024, 4096, 16384]
    found = exponent(tokens, [3e-9 * n**2 for n in tokens])
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


def test_exponent_is_that_of_the_largest_sizes() -> None:
    tokens = [4**n for n in range(4, 12)]
    found = exponent(tokens, [1.0 + 1e-9 * n**2 for n in tokens])
    assert found is not None
    assert found.smallest_tokens == 4**8
    assert 1.0 < found.value < 2.0


def test_exponent_interval_agrees_with_scipy() -> None:
    tokens, values = [256, 1024, 4096, 16384], [1.0, 4.5, 15.0, 70.0]
    line = stats.linregress(np.log(tokens), np.log(values))
    found = exponent(tokens, values)
    assert found is not None
    half = stats.t.ppf(0.975, 2) * line.stderr
    assert (found.value, found.low, found.high) == pytest.approx(
        (line.slope, line.slope - half, line.slope + half)
    )


def test_two_sizes_have_no_exponent() -> None:
    assert exponent([1, 2], [1.0, 2.0]) is None
    assert exponent([2, 2, 2], [1.0, 2.0, 3.0]) is None


def test_crossover_of_two_power_laws() -> None:
    tokens = [4**n for n in range(2, 9)]
    quadratic = [standing(1e-3 * n**2, 1e-5 * n**2) for n in tokens]
    linear = [standing(1.0 * n, 0.01 * n) for n in tokens]
    found = crossover(tokens, quadratic, linear)
    assert found is not None
    assert found.tokens == pytest.approx(1000)
    assert found.better_beyond == "second"
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1000 < found.high
    mirrored = crossover(tokens, linear, quadratic)
    assert mirrored is not None
    assert mirrored.better_beyond == "first"
    assert (mirrored.tokens, mirrored.low, mirrored.high) == pytest.approx(
        (found.tokens, found.low, found.high)
    )


def test_no_crossover_beyond_the_measured_sizes() -> None:
    """These lines would cross at 1000 tokens: nothing is extrapolated."""
    tokens = [16, 64, 256]
    quadratic, linear = ([standing(f * n**p) for n in tokens] for f, p in ((1e-3, 2), (1.0, 1)))
    assert crossover(tokens, quadratic, linear) is None


def test_crossover_without_intervals_has_no_bounds() -> None:
    found = crossover([10, 100], [standing(1), standing(4)], [standing(2), standing(2)])
    assert found is not None
    assert (found.low, found.high) == (None, None)


def test_a_crossing_that_is_not_certain_has_an_open_end() -> None:
    found = crossover(
        [10, 100], [standing(1, 0.1), standing(2.1, 0.5)], [standing(2, 0.1), standing(2, 0.5)]
    )
    assert found is not None
    assert found.high is None


def test_the_last_of_several_crossings_counts() -> None:
    wave = [1.0, 3.0, 1.0, 3.0]
    found = crossover([1, 10, 100, 1000], [standing(v) for v in wave], [standing(2)] * 4)
    assert found is not None
    assert found.crossings == 3
    assert 100 < found.tokens < 1000


def test_standing_ends_need_both() -> None:
    assert replace(standing(1.0, 0.1), high=None).ends is None
