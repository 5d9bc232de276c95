"""Each rule finds the fault that is planted for it, and nothing in a good run."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sample_run import sample_header, sample_records, write_planned, write_sample
from torch import nn

from attention_impls.registry import load, names
from attention_impls.shapes import AttentionShape, Grid
from bench.environment import hardware_id
from bench.model import (
    Case,
    Ceiling,
    Measured,
    NotRun,
    Ok,
    Outcome,
    OutOfMemory,
    Record,
    TaskRun,
    TaskVersion,
    Unavailable,
    Unsupported,
    Workload,
)
from bench.plan import everything, load_plan
from bench.rules import RUN_RULES, TREE_RULES, check_results, check_run, rule, status
from bench.rules.rule import RunUnderTest
from bench.submission import StoredRun, identified, read_results, write_run

Changed = Callable[[StoredRun], StoredRun]
Pick = Callable[[Case], bool]


@cache
def sample() -> StoredRun:
    """The synthetic run with the hardware_id that its machine has."""
    header = sample_header()
    machine = header.environment
    slug = hardware_id("cpu", machine.device_name, machine.cpu_count, machine.device_memory_bytes)
    header = replace(header, environment=replace(machine, hardware_id=slug))
    run, files = identified(header, sample_records())
    return StoredRun(run=run, files=files, folder=Path("sample"))


def rules_found(stored: StoredRun) -> dict[str, str]:
    return {finding.rule: finding.severity for finding in check_run(stored)}


# Ways to change a run -----------------------------------------------------------------------------


def header(**changes: Any) -> Changed:
    return lambda stored: replace(stored, run=replace(stored.run, **changes))


def environment(**changes: Any) -> Changed:
    return lambda stored: header(environment=replace(stored.run.environment, **changes))(stored)


def conditions(**changes: Any) -> Changed:
    return lambda stored: header(conditions=replace(stored.run.conditions, **changes))(stored)


def records(change: Callable[[Record], Record | None]) -> Changed:
    def changed(stored: StoredRun) -> StoredRun:
        files = tuple(
            replace(file, records=tuple(new for r in file.records if (new := change(r))))
            for file in stored.files
        )
        return replace(stored, files=files)

    return changed


def where(pick: Pick, change: Callable[[Record], Record | None]) -> Changed:
    return records(lambda record: change(record) if pick(record.case) else record)


def outcome(pick: Pick, new: Outcome) -> Changed:
    return where(pick, lambda record: replace(record, outcome=new))


def metric(pick: Pick, name: str, *rounds: tuple[float, ...]) -> Changed:
    def change(record: Record) -> Record:
        if not isinstance(record.outcome, Ok):
            return record
        others = tuple(m for m in record.outcome.measurements if m.metric != name)
        new = (*others, *((Measured(metric=name, rounds=rounds),) if rounds else ()))
        return replace(record, outcome=replace(record.outcome, measurements=new))

    return where(pick, change)


def scaled(pick: Pick, name: str, factor: float) -> Changed:
    def change(record: Record) -> Record:
        assert isinstance(record.outcome, Ok)
        measurements = tuple(
            replace(m, rounds=tuple(tuple(factor * s for s in r) for r in m.rounds))
            if isinstance(m, Measured) and m.metric == name
            else m
            for m in record.outcome.measurements
        )
        return replace(record, outcome=replace(record.outcome, measurements=measurements))

    return where(pick, change)


def sizes(**changes: Any) -> Changed:
    def change(record: Record) -> Record:
        assert isinstance(record.case.stimulus, Workload)
        stimulus = replace(record.case.stimulus, **changes)
        return replace(record, case=replace(record.case, stimulus=stimulus))

    return where(timed(512), change)


def timed(side_px: int, variant: str = "softmax", **also: Any) -> Pick:
    wanted = {"passes": "forward", "level": "layer", "backend": "reference", **also}

    def pick(case: Case) -> bool:
        s = case.stimulus
        return (
            isinstance(s, Workload)
            and not s.causal
            and (case.variant, s.resolution_px, s.passes) == (variant, side_px, wanted["passes"])
            and (case.level, case.backend) == (wanted["level"], wanted["backend"])
        )

    return pick


def of_kind(kind: str, variant: str = "softmax") -> Pick:
    return lambda case: case.stimulus.kind == kind and case.variant == variant


def seed(number: int) -> Pick:
    return lambda case: (
        of_kind("task")(case) and case.stimulus == TaskRun(task="digits", seed=number)
    )


def case(**changes: Any) -> Changed:
    return where(timed(512), lambda r: replace(r, case=replace(r.case, **changes)))


def both(first: Changed, second: Changed) -> Changed:
    return lambda stored: second(first(stored))


def ceiling(name: str, unit: Any, best: float) -> Changed:
    return header(ceilings=(Ceiling(name=name, unit=unit, samples=(best,), detail="planted"),))


def times(factor: float, samples: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(factor * sample for sample in samples)


ONE = timed(512)
BACKWARD = timed(512, passes="forward_backward")
SAME = tuple(0.05 + 0.0001 * n for n in range(6))
SLOW = (0.030, 0.031, 0.032, 0.033, 0.034, 0.035)
MANY = tuple(0.05 + 0.00001 * n for n in range(101))

PLANTED: dict[str, tuple[Changed, ...]] = {
    "R201": (
        case(variant="softmx"),
        case(backend="sdpaa"),
        where(timed(224), lambda r: replace(r, case=replace(r.case, backend="sdpaa"))),
        where(seed(0), lambda r: replace(
            r, case=replace(r.case, stimulus=TaskRun(task="digit", seed=0)))),
        metric(ONE, "latncy", SAME),
        header(plan="quik"),
    ),
    "R202": (
        case(options={"no_such_option": 1}),
        case(options={"qkv_bias": True}),
        case(options={"qkv_bias": 1}),
    ),
    "R203": (
        where(ONE, lambda r: replace(r, variant_revision=999)),
        lambda stored: header(protocol=replace(stored.run.protocol, version=999))(stored),
    ),
    "R205": (where(ONE, lambda r: replace(r, variant_revision=999)),),
    "R206": (
        lambda stored: replace(
            stored, files=tuple(replace(f, source_sha256="0" * 64) for f in stored.files)),
    ),
    "R207": (header(dirty=True), header(commit=None)),
    "R208": (header(created="2999-01-01T00:00:00Z"),),
    "R209": (
        environment(os="unknown"), environment(cpu=""), environment(threads=3),
        environment(torch="2.12.0"), environment(packages={}), environment(driver="570.1"),
        environment(device="cuda"),
    ),
    "R210": (
        environment(hardware_id="faster-cpu"), environment(cpu_count=64),
        environment(settings={"devices_together": 2}),
        environment(settings={"devices_together": 0}),
    ),
    "R211": (environment(os="Linux\u202e6"), environment(os="Linux\u200b6"),
             environment(os="e\u0301")),
    "R212": (
        environment(device_name="/home/alice/gpu"), header(only="alice@example.org"),
        outcome(ONE, NotRun(reason="see 192.168.10.12")),
        outcome(ONE, NotRun(reason="ghp_" + "a1" * 12)),
    ),
    "R214": (
        environment(os="Linux {{ 7 * 7 }}"), header(only="&lt;script&gt;"),
        environment(settings={"governor": "<script>alert(1)</script>"}),
        environment(settings={"javascript:alert(1)": True}),
        environment(packages={"torch": "2.13.0", "<img src=x onerror=alert(1)>": "1"}),
    ),
    "R315": (
        header(plan="repro"),
        both(header(plan="repro"), records(lambda r: r if ONE(r.case) else None)),
    ),
    "R301": (metric(ONE, "latency"), metric(seed(0), "accuracy"),
             metric(of_kind("frontier"), "largest_tokens"),
             where(ONE, lambda r: replace(r, outcome=replace(
                 r.outcome, measurements=r.outcome.measurements[:1] * 2)))),
    "R302": (metric(ONE, "accuracy", (0.5,)), metric(seed(0), "latency", SAME),
             metric(ONE, "host_latency", SAME)),
    "R303": (metric(of_kind("frontier"), "largest_tokens", (2048, 2048)),
             metric(ONE, "latency", SAME, SLOW), metric(ONE, "flops", (1.0,), (1.0,)),
             metric(ONE, "latency", SAME, SLOW, MANY)),
    "R304": (metric(ONE, "latency", SAME, SLOW, (0.05, 0.06)),),
    "R305": (
        metric(ONE, "latency", SAME, SLOW, (0.0, *SAME)), metric(ONE, "error", (-1.0,)),
        metric(seed(0), "accuracy", (97.5,)), metric(ONE, "peak_memory", (3e6 + 0.5,)),
    ),
    "R306": (
        where(ONE, lambda r: replace(r, outcome=replace(r.outcome, batch=2))),
        where(ONE, lambda r: replace(r, outcome=replace(r.outcome, batch=None))),
        where(seed(0), lambda r: replace(r, outcome=replace(r.outcome, batch=1))),
    ),
    "R307": (
        sizes(batch_policy="largest"), sizes(batch=2), sizes(patch_px=None), sizes(patch_px=8),
        sizes(resolution_px=1024), sizes(batch=None, batch_policy="token_budget"),
    ),
    "R308": (case(level="model"),
             where(seed(0), lambda r: replace(r, case=replace(r.case, level="layer")))),
    "R309": (
        outcome(ONE, Unsupported(reasons=("does not feel like it",))),
        where(timed(512, "inline"), lambda r: replace(
            r, case=replace(r.case, stimulus=replace(r.case.stimulus, causal=True)))),
    ),
    "R310": (metric(ONE, "error", (0.5,)),),
    "R313": (outcome(ONE, NotRun(reason=" ")),
             where(ONE, lambda r: replace(r, outcome=replace(r.outcome, measurements=(
                 Unavailable(metric="latency", reasons=("",)),))))),
    "R314": (metric(of_kind("frontier"), "largest_tokens", (10_000_000,)),),
    "R401": (scaled(ONE, "flops", 0.5), scaled(timed(512, level="core"), "flops", 2.0)),
    "R402": (scaled(ONE, "parameters", 2.0),),
    "R403": (scaled(ONE, "state_floats", 2.0),),
    "R404": (scaled(ONE, "latency", 0.1), scaled(BACKWARD, "latency", 0.25)),
    "R405": (metric(ONE, "latency", SAME, SLOW, (5e-7, *SAME)),),
    "R406": (
        ceiling("matmul_float32", "flop/s", 1e17),
        both(environment(device_name="NVIDIA H200"), ceiling("copy_bandwidth", "byte/s", 9e12)),
    ),
    "R407": (header(ceilings=()),),
    "R408": (metric(ONE, "peak_memory", (1000,)), metric(ONE, "peak_memory", (2**50,))),
    "R409": (scaled(ONE, "predicted_memory", 1.5),),
    "R410": (scaled(ONE, "flops_torch", 0.5), scaled(ONE, "flops_fvcore", 0.5)),
    "R411": (scaled(timed(1024), "latency", 0.05),),
    "R412": (scaled(timed(1024), "latency", 60.0),),
    "R413": (scaled(BACKWARD, "latency", 0.3),),
    "R414": (outcome(ONE, OutOfMemory(requested_bytes=None, limit_bytes=None, reason="full")),),
    "R415": (metric(ONE, "latency_cold", (400.0, *SAME)), conditions(measured_s=310.0),
             conditions(wall_s=1.0, measured_s=1.0)),
    "R416": (both(environment(power_limit_w=100.0), both(
        metric(ONE, "energy", (90.0,), (90.0,), (90.0,)),
        metric(ONE, "latency_sustained", SAME, SLOW, SAME[::-1]))),),
    "R417": (scaled(timed(1024), "peak_memory", 0.07),),
    "R508": (
        lambda stored: conditions(noise=tuple(
            replace(pair, case=replace(pair.case, variant="sxftmax"))
            for pair in stored.run.conditions.noise
        ))(stored),
        where(lambda case: case.stimulus == sample().run.conditions.noise[0].case.stimulus
              and case.variant == "inline" and case.backend == "reference", lambda _: None),
    ),
    "R507": (metric(ONE, "throttled", (1.0, 0.0)),),
    "R801": (
        metric(timed(224), "receipt", tuple(0.1 * n for n in range(8))),
        metric(timed(224), "receipt", (0.5,)),
    ),
    "R802": (metric(ONE, "receipt"),),
    "R501": (metric(ONE, "latency", (0.05,) * 6, (0.05,) * 6, (0.05,) * 6),
             metric(ONE, "latency", SAME, SLOW, SAME)),
    "R502": (metric(ONE, "latency", *(((0.05, 0.051, 0.052) * 4)[n:] for n in range(3))),),
    "R503": (metric(ONE, "latency", SAME, times(1.3, SAME), times(1.15, SAME)),),
    "R504": (metric(ONE, "latency", SAME, times(3, SAME), times(2, SAME)),),
    "R505": (metric(ONE, "latency", (0.011, *SAME), SLOW, tuple(s + 0.01 for s in SLOW)),),
    "R506": (
        conditions(busy=True),
        lambda stored: conditions(drift=replace(
            stored.run.conditions.drift, latencies_s=((1.0,), (1.1,), (1.2,))))(stored),
        lambda stored: conditions(noise=tuple(
            replace(pair, latencies_s=((1.0, 1.5),) * 3) for pair in stored.run.conditions.noise
        ))(stored),
    ),
    "R601": (metric(seed(0), "accuracy", (0.9349,)),),
    "R602": (metric(seed(0), "accuracy", (1 / 360,)),),
    "R603": (metric(of_kind("task"), "loss", (0.5,)),
             metric(of_kind("task"), "training_time", (4.0,))),
    "R604": (where(seed(0), lambda _: None),),
    "R605": (
        where(seed(0), lambda r: replace(r, task=None)),
        where(seed(0), lambda r: replace(r, outcome=replace(r.outcome, training=None))),
        where(seed(0), lambda r: replace(r, outcome=replace(r.outcome, training=replace(
            r.outcome.training, losses=(1.0,))))),
        where(timed(512), lambda r: replace(r, task=TaskVersion(revision=1, recipe_sha256=None))),
    ),
    "R606": (where(seed(0), lambda r: replace(r, outcome=replace(
        r.outcome, training=replace(r.outcome.training, data_sha256="0" * 64)))),),
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule_id", "plant"), [(name, plant) for name, plants in PLANTED.items() for plant in plants]
)
def test_a_planted_fault_is_found(rule_id: str, plant: Changed) -> None:
    severity = {r.id: r.severity for r in RUN_RULES}[rule_id]
    assert rules_found(plant(sample())).get(rule_id) == severity


def test_the_sample_is_good_but_of_no_plan() -> None:
    assert rules_found(sample()) == {"R312": "review"}


TESTED_ELSEWHERE = {"R204", "R311", "R312"}


def test_every_rule_has_a_planted_fault_and_a_unique_id() -> None:
    ids = [r.id for r in (*RUN_RULES, *TREE_RULES)]
    assert len(set(ids)) == len(ids)
    assert set(PLANTED) | TESTED_ELSEWHERE == {r.id for r in RUN_RULES}
    assert {r.id for r in TREE_RULES} == {
        "R101", "R102", "R103", "R104", "R105", "R106", "R107", "R108", "R109", "R213", "R701",
        "R702", "R703", "R704",
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
    for module in ("bench.rules.identity", "bench.rules.rule"):
        monkeypatch.setattr(
            f"{module}.load", lambda name: newer if name == "softmax" else load(name)
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
    assert rule.parameters_of(name, spec.options, shape, "layer") == real
    mix = getattr(layer, "mix", None)
    core = sum(p.numel() for p in mix.parameters()) if isinstance(mix, nn.Module) else 0
    assert rule.parameters_of(name, spec.options, shape, "core") == core


def test_a_layer_that_no_memory_can_address_is_a_fault_and_no_crash() -> None:
    shape = AttentionShape(batch=1, grid=Grid(14, 14), heads=3, head_dim=64)
    options = replace(load("linformer").options, projected_tokens=2**60)
    assert rule.parameters_of("linformer", options, shape, "layer") is None


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
    monkeypatch.setattr("bench.rules.rule.load", lambda _name: chooses)
    assert faults() == 0
