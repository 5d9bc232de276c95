"""Which visit comes next on several devices: everything once, in an order that spares the same."""

import random
from dataclasses import replace

import pytest
import tiny

from bench.dispatch import Dispatch
from bench.model import Crashed, Ok, OutOfMemory
from bench.schedule import ANCHOR, visits

SIZES = (8, 16, 32, 64)
CASES = tuple(tiny.case(v, n) for v in ("softmax", "linear_relu", "linformer") for n in SIZES)
PLAN = tiny.plan(*CASES, noise=(CASES[1],), protocol=replace(tiny.PROTOCOL, rounds=3))
OK = Ok(measurements=(), executed="-")


def outcome_of(case, fails_from):
    if case.stimulus.tokens >= fails_from.get(case.variant, 1 << 30):
        return OutOfMemory(requested_bytes=None, limit_bytes=None, reason="none left")
    return OK


def played(slots, seed, fails_from=(), losses=0.0, device="cpu", begun=()):
    """Play a run on `slots` devices whose visits end in random order; return what was written."""
    fails_from = dict(fails_from)
    dispatch = Dispatch(PLAN, device, dict(begun))
    chance = random.Random(seed)
    written, running, groups = dict(begun), {}, {}
    while not dispatch.over:
        for slot in range(slots):
            while slot not in running and (turn := dispatch.take(groups.get(slot))) is not None:
                if (reason := dispatch.needless(turn.case)) is not None:
                    assert turn.visit not in written
                    written[turn.visit] = reason
                    dispatch.settle(turn, reason)
                    continue
                running[slot] = turn
                groups[slot] = dispatch.group_of(turn)
        assert running or dispatch.over, "nothing runs and nothing can begin"
        if not running:
            break
        slot = chance.choice(sorted(running))
        turn = running.pop(slot)
        if chance.random() < losses:
            dispatch.give_back(turn)
            continue
        assert turn.visit not in written, "made twice"
        written[turn.visit] = outcome_of(turn.case, fails_from)
        dispatch.settle(turn, written[turn.visit])
    assert dispatch.settled == dispatch.total
    return written


def kinds(written):
    """What a record is made from: the earliest failure of each case, or that it never failed."""
    found = {}
    for visit, outcome in sorted(
        written.items(), key=lambda one: (one[0].round, one[0].repetition)
    ):
        if not isinstance(found.get(visit.case_id, OK), Ok):
            continue
        found[visit.case_id] = outcome
    return found


def test_one_device_makes_the_visits_in_the_order_of_the_schedule():
    for device in ("cpu", "cuda"):
        dispatch, seen, group = Dispatch(PLAN, device, {}), [], None
        while (turn := dispatch.take(group)) is not None:
            seen.append(turn)
            if turn.group != ANCHOR:
                group = dispatch.group_of(turn)
            dispatch.settle(turn, OK)
        expected = visits(PLAN, device)
        if device == "cpu":
            assert seen == list(expected)
        assert {turn.visit for turn in seen} == {turn.visit for turn in expected}
        assert len(seen) == len(expected)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("slots", [1, 2, 7, 64])
def test_nothing_is_lost_and_nothing_made_twice_though_devices_are_lost(slots, device):
    expected = {turn.visit for turn in visits(PLAN, device)}
    for seed in range(5):
        assert set(played(slots, seed, losses=0.4, device=device)) == expected


def test_the_same_cases_are_spared_with_many_devices_as_with_one():
    fails = {"softmax": 16, "linformer": 8}
    expected = kinds(played(1, 0, fails))
    assert sum(one.kind == "not_run" for one in expected.values()) == 5
    for slots in (2, 5, 40):
        for seed in range(5):
            assert kinds(played(slots, seed, fails, losses=0.3)) == expected


def test_rounds_of_one_case_and_sizes_of_one_family_do_not_overlap():
    dispatch = Dispatch(PLAN, "cpu", {})
    taken = []
    while (turn := dispatch.take()) is not None:
        taken.append(turn)
    real = [turn for turn in taken if turn.group != ANCHOR]
    assert {turn.visit.round for turn in real} == {0}
    assert {turn.case.stimulus.tokens for turn in real} == {8}
    assert not dispatch.over


def test_a_resumed_dispatch_goes_on_where_it_stopped():
    whole = played(3, 1, {"softmax": 32})
    for kept in (0, 5, len(whole) - 1):
        begun = dict(list(whole.items())[:kept])
        assert kinds(played(4, 2, {"softmax": 32}, begun=begun)) == kinds(whole)
    full = Dispatch(PLAN, "cpu", whole)
    assert full.over


def test_a_failed_case_is_not_visited_again_and_one_under_way_may_still_end():
    dispatch = Dispatch(PLAN, "cpu", {})
    turns = [dispatch.take() for _ in range(8)]
    pair = [turn for turn in turns if turn.case == CASES[1]]
    assert not pair, "the second size waits for the first"
    first = next(turn for turn in turns if turn and turn.case != PLAN.anchor)
    before = dispatch.settled
    dispatch.settle(first, Crashed(exit_code=1, reason="bug"))
    assert dispatch.settled == before + 3, "its three rounds are settled"


def test_on_cuda_devices_keep_to_their_own_group():
    dispatch = Dispatch(PLAN, "cuda", {})
    a = next(turn for turn in iter(dispatch.take, None) if turn.group != ANCHOR)
    b = next(turn for turn in iter(dispatch.take, None) if turn.group != ANCHOR)
    assert a.group != b.group, "another device begins another group"
    dispatch.settle(a, OK)
    again = dispatch.take(dispatch.group_of(a))
    assert again.group == a.group
