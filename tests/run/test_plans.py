"""Plans: found by file, ids unique, `--only` keeps what it names, digests move with contents."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attention_impls import registry
from attention_impls.registry import UnknownName
from bench.derived import LEAST_NOISE_PAIRS
from bench.model import Frontier, Plan, TaskRun, Timed, Workload, from_json, to_json
from bench.plan import everything, load_plan, noise_pairs, only, plan_names

FOUNDING = (
    *("focused_linear", "inline", "linear_elu", "linear_relu", "linformer", "nystromformer"),
    *("performer", "soft", "soft_norm", "softmax"),
)


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
    assert replace(plan, expected_minutes=99.0, purpose="Said otherwise.").digest == plan.digest
    assert replace(plan, cases=plan.cases[1:]).digest != plan.digest


def test_standard_covers_images_sequences_and_both_passes() -> None:
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


@pytest.mark.parametrize("name", plan_names())
@pytest.mark.parametrize("dtypes", [None, ("float16",)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_noise_pairs_are_cases_of_the_plan(name: str, dtypes: Any, device: Any) -> None:
    plan = load_plan(name, everything(device, dtypes))
    assert {pair.id for pair in plan.noise_pairs} <= {case.id for case in plan.cases}
    timed = any(isinstance(case.stimulus, Timed) for case in plan.cases)
    assert len(plan.noise_pairs) >= (LEAST_NOISE_PAIRS if timed else 0)


def test_noise_pairs_are_topped_up_by_the_smallest_timed_cases() -> None:
    plan = load_plan("standard", everything("cpu"))
    kept = only(plan, "eva")
    assert [case.variant for case in kept.noise_pairs] == ["eva"] * 4
    assert "/b1/14x14/" in kept.noise_pairs[0].id
    enough = plan.noise_pairs[:LEAST_NOISE_PAIRS]
    assert noise_pairs(plan.cases, enough) == enough
    trained = [case for case in plan.cases if isinstance(case.stimulus, TaskRun)]
    assert noise_pairs(trained, plan.noise_pairs) == ()


def test_only_keeps_what_it_names_and_the_noise_pair() -> None:
    plan = load_plan("quick", everything("cpu"))
    kept = only(plan, "inline")
    assert {c.variant for c in kept.cases} == {"inline"}
    assert kept.noise_pairs
    assert kept.digest != plan.digest
    several = only(plan, "inline soft*/*/layer/b1/14x14/")
    assert {c.variant for c in several.cases} == {"inline", "soft", "soft_norm", "softmax"}
    assert all(c.variant == "inline" or "/b1/14x14/" in c.id for c in several.cases)
    by_backend = only(plan, "softmax/sdpa")
    assert {(c.variant, c.backend) for c in by_backend.cases} == {("softmax", "sdpa")}


def test_quick_measures_a_choice_and_whatever_is_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(registry, "_outside", {})
    source = Path(__file__).parents[1] / "meta" / "toy_linear.py"
    registry.add_variant_file(shutil.copy(source, tmp_path / "brought.py"))
    monkeypatch.setattr("bench.plan.names", lambda: (*FOUNDING, "brought", "later"))
    monkeypatch.setattr("bench.cases.backends", lambda _variant: ("reference",))

    def measured(pattern: str | None) -> set[str]:
        scope = everything("cpu", pattern=pattern)
        return {case.variant for case in load_plan("quick", scope).cases}

    assert measured(None) == {*FOUNDING, "brought"}
    assert measured("late*/reference") == {*FOUNDING, "brought", "later"}
    assert measured("*512*") == {*FOUNDING, "brought"}
    registry.load.cache_clear()


def test_only_that_matches_nothing_is_an_error_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"matches none of the .* softmax"):
        only(load_plan("quick", everything("cpu")), "nonsense")
