"""Plans: found by file, ids unique, `--only` keeps what it names, digests move with contents."""

from dataclasses import replace

import pytest

from attention_impls.registry import UnknownName
from bench.model import Frontier, Plan, TaskRun, Workload, from_json, to_json
from bench.plan import everything, load_plan, only, plan_names


@pytest.mark.parametrize("name", plan_names())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plan_has_unique_cases_and_survives_json(name: str, device: str) -> None:
    plan = load_plan(name, everything(device))
    ids = [case.id for case in plan.cases]
    assert len(ids) == len(set(ids)) > 0
    assert from_json(Plan, to_json(plan)) == plan


def test_an_unknown_plan_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'quick'"):
        load_plan("quik", everything("cpu"))


def test_the_digest_changes_if_and_only_if_the_contents_change() -> None:
    plan = load_plan("smoke", everything("cpu"))
    assert plan.digest == load_plan("smoke", everything("cpu")).digest
    other = replace(plan, protocol=replace(plan.protocol, rounds=plan.protocol.rounds + 1))
    assert other.digest != plan.digest


def test_standard_covers_the_sweep_that_the_issue_names() -> None:
    plan = load_plan("standard", everything("cpu"))
    timed = [c.stimulus for c in plan.cases if isinstance(c.stimulus, Workload)]
    assert {224, 2048} <= {w.resolution_px for w in timed}
    assert {w.grid.width for w in timed if w.grid.height == 1} >= {256, 65_536}
    assert {w.passes for w in timed} == {"forward", "forward_backward"}
    assert {c.level for c in plan.cases} == {"core", "layer", "model"}
    assert {w.batch_policy for w in timed} == {"one", "token_budget", "largest"}
    assert any(isinstance(c.stimulus, Frontier) for c in plan.cases)
    seeds = {c.stimulus.seed for c in plan.cases if isinstance(c.stimulus, TaskRun)}
    assert len(seeds) >= 3
    assert {c.variant for c in plan.cases} == set(everything("cpu").variants)


def test_only_keeps_what_it_names_and_the_noise_pair() -> None:
    plan = load_plan("quick", everything("cpu"))
    kept = only(plan, "inline")
    assert {c.variant for c in kept.cases} == {"inline"}
    assert kept.noise_pairs
    assert kept.digest != plan.digest
    by_backend = only(plan, "softmax/sdpa")
    assert {(c.variant, c.backend) for c in by_backend.cases} == {("softmax", "sdpa")}


def test_only_that_matches_nothing_is_an_error_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"matches none of the .* softmax"):
        only(load_plan("quick", everything("cpu")), "nonsense")
