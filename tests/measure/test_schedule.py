"""The order of visits: whole, seeded, shuffled, small sizes first where they can spare others."""

from dataclasses import replace
from itertools import pairwise

import tiny

from bench.model import Crashed, Frontier, NotRun, Ok, OutOfMemory, TimedOut, Visit
from bench.schedule import ANCHOR, needless, visits

SIZES = (8, 16, 32, 64)
CASES = tuple(tiny.case(v, n) for v in ("softmax", "linear_relu", "linformer") for n in SIZES)
FRONTIER = replace(
    CASES[0],
    stimulus=Frontier(memory_bytes=1 << 20, heads=2, head_dim=4, dtype="float32", passes="forward"),
)
PLAN = tiny.plan(*CASES, FRONTIER, noise=(CASES[1],), protocol=replace(tiny.PROTOCOL, rounds=3))


def ids(turns, round_):
    return [t.case.id for t in turns if t.visit.round == round_ and t.group != ANCHOR]


def test_every_case_is_visited_once_a_round_and_pairs_twice():
    turns = visits(PLAN, "cpu")
    assert len({t.visit for t in turns}) == len(turns)
    for round_ in range(3):
        seen = ids(turns, round_)
        for case in CASES:
            assert seen.count(case.id) == (2 if case == CASES[1] else 1)
        assert seen.count(FRONTIER.id) == (1 if round_ == 0 else 0)


def test_the_order_follows_from_the_seed_and_differs_between_rounds():
    assert visits(PLAN, "cpu") == visits(PLAN, "cpu")
    turns = visits(PLAN, "cpu")
    assert ids(turns, 1) != ids(turns, 2)
    other = replace(PLAN, protocol=replace(PLAN.protocol, seed=1))
    assert ids(visits(other, "cpu"), 1) != ids(turns, 1)


def test_sizes_of_a_family_ascend_in_round_0_and_families_are_mixed():
    seen = [t.case for t in visits(PLAN, "cpu") if t.visit.round == 0 and t.group != ANCHOR]
    for variant in ("softmax", "linear_relu", "linformer"):
        tokens = [c.stimulus.tokens for c in seen if c.variant == variant and c != FRONTIER]
        assert tokens == sorted(tokens)
    assert len({c.variant for c in seen[:4]}) > 1


def test_the_anchor_runs_first_and_then_every_few_visits():
    turns = [t for t in visits(PLAN, "cpu") if t.visit.round == 0]
    places = [place for place, t in enumerate(turns) if t.group == ANCHOR]
    assert places[0] == 0
    assert {b - a for a, b in pairwise(places)} == {PLAN.protocol.anchor_every + 1}


def test_on_cuda_the_visits_of_a_group_are_together_and_pairs_are_apart():
    groups = [t.group for t in visits(PLAN, "cuda") if t.visit.round == 1 and t.group != ANCHOR]
    changes = sum(a != b for a, b in pairwise(groups))
    assert changes == len(set(groups)) - 1
    pair = [t.group for t in visits(PLAN, "cuda") if t.case == CASES[1] and t.visit.round == 1]
    assert len(set(pair)) == 2


def test_a_size_above_one_that_ran_out_of_time_or_memory_is_needless():
    cases = {case.id: case for case in CASES}
    small, middle, large = CASES[0], CASES[1], CASES[2]
    for failure, words in (
        (TimedOut(limit_s=1.0), "timed out"),
        (OutOfMemory(requested_bytes=1, limit_bytes=None, reason="none"), "ran out of memory"),
    ):
        outcomes = {Visit(middle.id, 0, 0): failure}
        found = needless(large, cases, outcomes)
        assert isinstance(found, NotRun)
        assert middle.id in found.reason
        assert words in found.reason
        assert needless(small, cases, outcomes) is None
        assert needless(CASES[4 + 3], cases, outcomes) is None, "another variant"
        backward = tiny.case("softmax", 64, passes="forward_backward")
        assert needless(backward, {**cases, backward.id: backward}, outcomes) is None


def test_other_failures_spare_nothing():
    cases = {case.id: case for case in CASES}
    for outcome in (
        Crashed(exit_code=1, reason="bug"),
        Ok(measurements=(), executed="reference"),
    ):
        assert needless(CASES[2], cases, {Visit(CASES[1].id, 0, 0): outcome}) is None
