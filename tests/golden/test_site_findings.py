"""What pages conclude: crossovers, what fits, frontiers, changes of a lead, the nearest choice."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leaderboard.along import Along
from leaderboard.blocks import Facets
from leaderboard.choices import Choice, Choices
from leaderboard.contexts import ordered_contexts
from leaderboard.crossings import against
from leaderboard.curves import MOST_SHOWN, families, series_of
from leaderboard.figure_data import Point
from leaderboard.fronts import frontier
from leaderboard.records import changes
from leaderboard.results import Number, Result, View, view
from sample_scale import scale_table, write_scale_sample
from sample_site import catalogue, sample_table, write_later_run, write_site_sample

from bench.curves import fitting
from bench.tabulation import load_table, recorded


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> View:
    return view(sample_table(write_site_sample(tmp_path_factory.mktemp("results"))))


@pytest.fixture(scope="module")
def some(shown: View) -> Result:
    return next(r for r in shown.results if r.stimulus == "workload" and r.ranked)


def line(some: Result, values: dict[int, float | None], spread: float = 0.01) -> list[Result]:
    """One execution over sizes; None: out of memory."""
    found: list[Result] = []
    for tokens, value in values.items():
        one = replace(some, tokens=tokens, grid_height=1, grid_width=tokens, noise_floor=0.02)
        if value is None:
            found.append(replace(one, outcome="out_of_memory", numbers={}))
            continue
        number = Number(
            value=value, low=value * (1 - spread), high=value * (1 + spread), p10=None, p90=None,
            samples=9, rounds=3, bound=None, implausible=False,
        )  # fmt: skip
        found.append(replace(one, numbers={"latency": number}))
    return found


SIZES = (256, 1024, 4096, 16_384)


def quadratic(some: Result) -> list[Result]:
    return line(some, {n: 1e-9 * n**2 + 1e-5 for n in SIZES})


def test_a_crossover_lies_where_the_lines_cross(some: Result) -> None:
    linear = line(some, {n: 2e-6 * n for n in SIZES})
    found = against(linear, quadratic(some), "latency", varies=True)
    assert found.kind == "from"
    assert found.tokens is not None
    assert found.low is not None
    assert found.high is not None
    assert 1024 <= found.low <= found.tokens <= found.high <= 4096
    assert math.isclose(found.tokens, 2000, rel_tol=0.1)
    back = against(quadratic(some), linear, "latency", varies=True)
    assert (back.kind, back.tokens) == ("up to", found.tokens)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (dict.fromkeys(SIZES, 1e-6), "always"),
        (dict.fromkeys(SIZES, 10.0), "never"),
        ({n: 1.001 * (1e-9 * n**2 + 1e-5) for n in SIZES}, "undecided"),
        ({17: 1.0}, "incomparable"),
    ],
)
def test_what_does_not_cross_is_said_in_a_word(
    some: Result, values: dict[int, float], kind: str
) -> None:
    found = against(line(some, dict(values)), quadratic(some), "latency", varies=True)
    assert found.kind == kind
    assert found.tokens is None


def test_a_crossing_within_the_noise_is_none(some: Result) -> None:
    base = quadratic(some)
    values = [r.numbers["latency"].value for r in base]
    factors = (0.995, 1.005, 0.995, 1.005)
    wobble = {n: v * f for n, v, f in zip(SIZES, values, factors, strict=True)}
    assert against(line(some, dict(wobble)), base, "latency", varies=True).kind == "undecided"
    assert against(line(some, dict(wobble)), base, "latency", varies=False).kind != "undecided"


def test_a_lead_whose_begin_is_noise_is_sure_from_a_size_on(some: Result) -> None:
    base = quadratic(some)
    same = {r.tokens or 0: r.numbers["latency"].value for r in base}
    mine = line(some, {256: same[256], 1024: same[1024], 4096: 1e-3, 16_384: 1e-3})
    found = against(mine, base, "latency", varies=True)
    assert (found.kind, found.tokens) == ("surely", 4096)
    slower = line(some, {256: same[256], 1024: same[1024], 4096: 1.0, 16_384: 1.0})
    assert against(slower, base, "latency", varies=True).kind == "never"


def test_an_exact_quantity_is_never_undecided(some: Result) -> None:
    """The same bytes at the largest size and fewer at another is no matter of noise."""
    base = line(some, {256: 1.0, 1024: 2.0, 4096: 3.0, 16_384: 4.0})
    fewer = line(some, {256: 1.0, 1024: 1.5, 4096: 3.0, 16_384: 4.0})
    found = against(fewer, base, "latency", varies=False)
    assert (found.kind, found.exact) == ("partly", True)
    assert against(fewer[::3], base, "latency", varies=False).kind == "equal"
    assert against(fewer, base, "latency", varies=True).kind == "partly"
    within = line(some, {256: 1.0, 1024: 1.999, 4096: 3.0, 16_384: 4.0})
    assert against(within, base, "latency", varies=True).kind == "undecided"


def test_who_runs_where_softmax_fails_is_alone(some: Result) -> None:
    base = line(some, {256: 1e-5, 1024: 1e-4, 4096: None, 16_384: None})
    mine = line(some, {256: 2e-5, 1024: 2e-4, 4096: 1e-3, 16_384: 4e-3})
    found = against(mine, base, "latency", varies=True)
    assert (found.kind, found.tokens) == ("alone", 4096)
    assert against(mine[:2], base, "latency", varies=True).kind == "never"


# What fits ----------------------------------------------------------------------------------------


@given(
    st.floats(1.0, 2.2), st.floats(1.0, 1e4), st.floats(min_value=1e3, max_value=1e12),
)  # fmt: skip
def test_memory_of_a_power_law_is_inverted(power: float, scale: float, budget: float) -> None:
    found = fitting(SIZES, [scale * n**power for n in SIZES], budget)
    exact = (budget / scale) ** (1 / power)
    if exact < SIZES[0]:
        assert found is None or math.isclose(exact, SIZES[0])
    else:
        assert found is not None
        assert math.isclose(found.tokens, exact, rel_tol=1e-6)
        assert found.extrapolated == (exact > SIZES[-1] * (1 + 1e-9)) or math.isclose(
            exact, SIZES[-1]
        )


def test_what_cannot_be_inverted_is_none() -> None:
    assert fitting([256], [100.0], 1e9) is None
    assert fitting([256, 1024], [100.0, 100.0], 1e9) is None
    assert fitting([256, 1024], [100.0, 400.0], 50) is None
    assert fitting([1024, 256], [400.0, 100.0], 200) is not None


# Trade-offs ---------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12),
    st.booleans(),
)
def test_nothing_beats_the_frontier(pairs: list[tuple[int, int]], more: bool) -> None:
    points = [Point(x=float(x), y=float(y), low=None, high=None) for x, y in pairs]
    best = frontier(points, more=more)
    sign = -1 if more else 1

    def beats(one: Point, other: Point) -> bool:
        better_or_equal = sign * one.x <= sign * other.x and one.y >= other.y
        return better_or_equal and (one.x, one.y) != (other.x, other.y)

    assert best
    for point in points:
        beaten = any(beats(other, point) for other in points)
        assert beaten == ((point.x, point.y) not in {(p.x, p.y) for p in best})


# Choices ------------------------------------------------------------------------------------------


def options(facets: Facets) -> dict[str, dict[str, str]]:
    return {label: {o.text: o.path for o in found} for label, found in facets.rows}


def test_a_choice_keeps_the_others_where_it_can() -> None:
    def choice(*values: str) -> Choice:
        return Choice(path="-".join(values), values=tuple((v, v.upper()) for v in values))

    all_ = [choice("m1", "fwd", "224"), choice("m1", "fwd", "512"), choice("m1", "both", "224"),
            choice("m2", "fwd", "512")]  # fmt: skip
    found = options(Choices(("M", "P", "S"), all_).facets(all_[1]))
    assert found["P"] == {"FWD": "m1-fwd-512", "BOTH": "m1-both-224"}
    assert found["M"] == {"M1": "m1-fwd-512", "M2": "m2-fwd-512"}
    # both at 512 px is not there: the machine and then the passes are kept
    assert options(Choices(("M", "P", "S"), all_).facets(all_[2]))["S"]["512"] == "m1-fwd-512"
    alone = Choices(("M",), [choice("m1")])
    assert alone.facets(choice("m1")).rows == ()


# Figures of a large catalogue ---------------------------------------------------------------------


def test_a_crowded_figure_shows_the_leaders_and_keeps_the_others(tmp_path: Path) -> None:
    table = scale_table(write_scale_sample(tmp_path, machines=1, whole=False))
    large = view(table)
    context, sizes = ordered_contexts(large)[0]
    family = next(iter(families(sizes)))
    place = Along(context=context, family=family, choice=Choice(path="x", values=()))
    series = series_of(large, place.family, "latency")
    visible = [one for one in series if one.shown]
    assert len(series) > 100
    assert 3 < len(visible) <= MOST_SHOWN
    assert "softmax~sdpa" in {one.name for one in visible}
    assert len({one.name for one in series}) == len(series)


# History ------------------------------------------------------------------------------------------


def test_a_lead_changes_when_the_old_leader_is_beaten(tmp_path: Path, shown: View) -> None:
    assert tuple(changes(shown)) == ()
    root = write_site_sample(tmp_path)
    write_later_run(root)
    found = tuple(changes(view(load_table(root, catalogue()))))
    assert found
    assert {c.after.variant for c in found} == {"linear_relu"}
    assert {c.exactness for c in found} == {"own"}
    assert all(c.created == "2026-02-02T03:04:05Z" for c in found)


def test_samples_are_those_of_the_file(shown: View) -> None:
    entry = next(e for e in shown.table.runs if e.run.environment.hardware_id == "sample-cpu")
    found = recorded(shown.table.root, entry.folder, "inline")
    mine = {r.case_id: r for r in shown.results
            if r.variant == "inline" and r.run_id == entry.run.run_id}  # fmt: skip
    assert found.keys() == mine.keys()
    case_id, one = next((c, r) for c, r in mine.items() if "latency" in r.numbers)
    rounds = found[case_id].rounds["latency"]
    assert sum(map(len, rounds)) == one.numbers["latency"].samples
    failed = next(c for c, r in mine.items() if not r.ok) if any(
        not r.ok for r in mine.values()) else None  # fmt: skip
    assert failed is None or found[failed].rounds == {}
    with pytest.raises(OSError, match="no_such_variant"):
        recorded(shown.table.root, entry.folder, "no_such_variant")
