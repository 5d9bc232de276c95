"""Each rule finds the fault that is planted for it, and nothing in a good run."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from planted import (
    ONE,
    PLANTED,
    Changed,
    both,
    environment,
    header,
    metric,
    records,
    rules_found,
    sample,
    scaled,
    timed,
    training,
    where,
)
from sample_gpu import gpu_sample
from sample_run import write_planned, write_sample
from torch import nn

from attention_impls.registry import load, names
from attention_impls.shapes import AttentionShape, Grid
from bench import asked_layer
from bench.plan import everything, load_plan
from bench.rules import RUN_RULES, TREE_RULES, check_results, check_run, status
from bench.rules.rule import RunUnderTest
from bench.submission import read_results, write_run


@pytest.mark.parametrize(
    ("rule_id", "plant"), [(name, plant) for name, plants in PLANTED.items() for plant in plants]
)
def test_a_planted_fault_is_found(rule_id: str, plant: Changed) -> None:
    severity = {r.id: r.severity for r in RUN_RULES}[rule_id]
    assert rules_found(plant(sample())).get(rule_id) == severity


def test_the_sample_is_good_but_of_no_plan() -> None:
    assert rules_found(sample()) == {"R312": "review"}


def test_a_gpu_is_no_fault() -> None:
    assert rules_found(gpu_sample()) == {"R312": "review"}
    silent = environment(driver=None, power_limit_w=None, clock_max_hz=None, cudnn=None)
    assert rules_found(silent(gpu_sample())) == {"R312": "review"}, "sensors that cannot be read"


def test_a_training_that_went_on_takes_longer_than_its_last_visit() -> None:
    """What was trained before the run was stopped is in no visit of the run."""
    long = metric(lambda case: case.stimulus.kind == "task", "training_time", (2000.0,))
    assert "R415" in rules_found(long(sample()))
    resumed = long
    for number in range(3):
        resumed = both(resumed, training(number, resumed_after=(4, 4)))
    only = where(lambda case: case.variant != "softmax", lambda _: None)
    assert "R415" not in rules_found(only(resumed(sample())))


TESTED_ELSEWHERE = {"R204", "R311", "R312", "R316"}


def test_every_rule_has_a_planted_fault_and_a_unique_id() -> None:
    ids = [r.id for r in (*RUN_RULES, *TREE_RULES)]
    assert len(set(ids)) == len(ids)
    assert set(PLANTED) | TESTED_ELSEWHERE == {r.id for r in RUN_RULES}
    assert {r.id for r in TREE_RULES} == {
        "R101", "R102", "R103", "R104", "R105", "R106", "R107", "R108", "R109", "R213", "R216",
        "R701", "R702", "R703", "R704", "R705",
    }  # fmt: skip
    assert all(r.help.endswith(".") for r in (*RUN_RULES, *TREE_RULES))


def test_findings_say_where_and_what() -> None:
    (finding,) = (f for f in check_run(scaled(ONE, "flops", 0.5)(sample())) if f.rule == "R401")
    assert finding.path.endswith("/softmax.json")
    assert str(finding).startswith(f"{finding.path}: error R401: records.")
    assert "the variant's formula gives" in finding.message


# Rules that need a revision, a plan, or results as a whole ----------------------------------------


def test_older_numbers_are_flagged_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = replace(load("softmax"), revision=load("softmax").revision + 1)
    monkeypatch.setattr(
        "bench.rules.tree.load", lambda name: newer if name == "softmax" else load(name)
    )
    found = {f.rule: f.path for f in check_run(sample())}
    assert found["R204"].endswith("softmax.json")
    assert {f.severity for f in check_run(sample())} == {"flag", "review"}


def test_an_older_protocol_is_flagged_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.rules.identity.PROTOCOL_VERSION", 2)
    assert rules_found(sample())["R204"] == "flag"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planned")
    write_planned(root, load_plan("quick", everything("cpu")))
    return root


def test_a_complete_good_run_is_accepted_without_a_word(planned: Path) -> None:
    assert check_results(planned) == ()


def test_a_missing_case_is_found(planned: Path) -> None:
    stored = read_results(planned)[0][0]
    assert rules_found(where(timed(512), lambda _: None)(stored))["R311"] == "error"
    renamed = where(
        timed(512), lambda r: replace(r, case=replace(r.case, options={"qkv_bias": False}))
    )
    messages = [f.message for f in check_run(renamed(stored)) if f.rule == "R311"]
    assert any("are missing" in m for m in messages)
    assert any("not a case of plan quick" in m for m in messages)


def test_a_part_of_a_plan_is_complete_when_it_says_so(tmp_path: Path) -> None:
    from bench.plan import only

    plan = only(load_plan("quick", everything("cpu")), "softmax/sdpa")
    folder = write_planned(tmp_path, plan)
    (stored,) = read_results(tmp_path)[0]
    assert rules_found(stored) == {"R312": "review"}
    assert rules_found(header(only="softmax/sdpa")(stored)) == {}
    assert folder.is_dir()


def test_a_run_stays_complete_when_variants_are_added_to_the_tree(tmp_path: Path) -> None:
    known = replace(everything("cpu"), variants=("inline", "softmax"))
    plan = load_plan("quick", known)
    write_planned(tmp_path, plan)
    (stored,) = read_results(tmp_path)[0]
    assert rules_found(stored) == {}
    whole = header(plan_digest=load_plan("quick", everything("cpu")).digest)(stored)
    assert rules_found(whole) == {"R311": "error"}  # says all variants, has two
    assert rules_found(header(plan_digest="0" * 64)(stored)) == {"R312": "review"}


def test_unreadable_files_are_findings(tmp_path: Path) -> None:
    folder = write_sample(tmp_path)
    (folder / "softmax.json").write_text("{}")
    (finding,) = check_results(tmp_path)
    assert (finding.rule, finding.severity) == ("R101", "error")
    assert finding.path == f"sample-cpu/{folder.name}/softmax.json"


def test_a_bad_report_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "reported").mkdir()
    (tmp_path / "reported" / "paper.json").write_text("{}")
    assert [f.rule for f in check_results(tmp_path)] == ["R101"]


def test_a_stale_schema_is_found(tmp_path: Path) -> None:
    from bench.schema import write_schema

    write_schema(tmp_path / "schema.json")
    assert check_results(tmp_path) == ()
    (tmp_path / "schema.json").write_text("{}")
    assert [f.rule for f in check_results(tmp_path)] == ["R102"]


def test_copied_samples_are_found_within_and_across_runs(tmp_path: Path) -> None:
    write_sample(tmp_path)
    assert "R701" not in {f.rule for f in check_results(tmp_path)}
    write_sample(tmp_path, created="2026-03-02T03:04:05Z")
    found = [f for f in check_results(tmp_path) if f.rule == "R701"]
    assert found
    assert found[0].severity == "error"


def test_an_outlier_is_flagged(tmp_path: Path) -> None:
    first = sample()
    second = header(created="2026-03-02T03:04:05Z")(scaled(ONE, "latency", 2.0)(first))
    for stored in (first, second):
        write_run(tmp_path, stored.run, stored.files)
    found = [f for f in check_results(tmp_path) if f.rule == "R702"]
    assert [f.severity for f in found] == ["flag"]
    assert second.run.created[:4] in found[0].path


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=Sample", "-c", "user.email=sample@example.org")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A results folder on a branch off main, one run committed on main."""
    root = tmp_path / "results"
    write_sample(root)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "checkout", "-q", "-b", "mine")
    return root


def test_adding_a_run_keeps_history(repository: Path) -> None:
    write_sample(repository, hardware_id="other-cpu", created="2026-04-02T03:04:05Z")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "second")
    assert "R103" not in {f.rule for f in check_results(repository)}


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("what", ["deleted", "changed"])
def test_rewriting_history_is_found(repository: Path, what: str, commit: bool) -> None:
    path = next(repository.rglob("softmax.json"))
    if what == "deleted":
        path.unlink()
    else:
        path.write_text(path.read_text() + "\n")
    if commit:
        git(repository, "commit", "-q", "-am", "rewrite")
    (finding,) = (f for f in check_results(repository) if f.rule == "R103")
    assert what in finding.message
    assert finding.path == path.relative_to(repository).as_posix()


def test_only_the_asked_paths_are_reported(tmp_path: Path) -> None:
    folder = write_sample(tmp_path)
    other = write_sample(tmp_path, hardware_id="other-cpu", created="2026-04-02T03:04:05Z")
    for path in (folder, other):
        (path / "run.json").write_text("{}")
    assert [f.path for f in check_results(tmp_path, (other,))] == [
        f"other-cpu/{other.name}/run.json"
    ]
    with pytest.raises(ValueError, match="not below the results folder"):
        check_results(tmp_path, (tmp_path.parent,))
    with pytest.raises(ValueError, match="not a folder"):
        check_results(tmp_path / "nowhere")


# What the rules rest on ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_parameters_on_the_meta_device_are_those_of_the_real_layer(name: str) -> None:
    spec = load(name)
    shape = AttentionShape(batch=1, grid=Grid(14, 14), heads=3, head_dim=64)
    layer = spec.build(shape)
    real = sum(p.numel() for p in layer.parameters())
    assert asked_layer.parameters_of(name, spec.options, shape, "layer") == real
    mix = getattr(layer, "mix", None)
    core = sum(p.numel() for p in mix.parameters()) if isinstance(mix, nn.Module) else 0
    assert asked_layer.parameters_of(name, spec.options, shape, "core") == core


def test_a_layer_that_no_memory_can_address_is_a_fault_and_no_crash() -> None:
    shape = AttentionShape(batch=1, grid=Grid(14, 14), heads=3, head_dim=64)
    options = replace(load("linformer").options, projected_tokens=2**60)
    assert asked_layer.parameters_of("linformer", options, shape, "layer") is None


def test_devices_that_train_together_have_a_run_of_trainings() -> None:
    id_ = f"{sample().run.environment.hardware_id}-x2"
    several = environment(hardware_id=id_, settings={"devices_together": 2})
    trainings = records(lambda r: r if r.case.stimulus.kind == "task" else None)
    assert "R210" not in rules_found(both(several, trainings)(sample()))
    assert "R210" in rules_found(several(sample())), "timed cases use one device"
    assert "R210" in rules_found(trainings(environment(hardware_id=id_)(sample())))


def test_a_mechanism_that_chooses_is_not_judged_by_its_largest_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = metric(ONE, "error", (0.07,))(sample())
    (r310,) = (one for one in status.RULES if one.id == "R310")

    def faults() -> int:
        return len(list(r310.find(RunUnderTest(stored=far, now="2999-01-01T00:00:00Z"))))

    assert faults() > 0
    spec = load("softmax")
    chooses = replace(spec, traits=replace(spec.traits, continuous=False))
    monkeypatch.setattr("bench.rules.tree.load", lambda _name: chooses)
    assert faults() == 0
