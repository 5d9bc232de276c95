"""Published rows found, repeated and judged; runs compared."""

from dataclasses import replace
from pathlib import Path

import pytest
from results_in_memory import run_with_latency
from sample_run import sample_environment, write_sample
from sample_site import catalogue

from attention_impls.registry import UnknownName
from bench.comparison import compare_runs
from bench.model import Measured, NotRun, Ok, Record
from bench.published import Published, find_row
from bench.reproduce import agrees, environment_differences, judge, repeat_plan
from bench.rules import check_results
from bench.submission import StoredRun, write_run
from bench.tabulation import load_table

ROW = "softmax/reference/layer/b1/32x32/h3d64/float32/forward#"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    write_sample(root)
    write_sample(root, created="2026-02-02T03:04:05Z")
    return root


def timed(record: Record, factor: float) -> Record:
    assert isinstance(record.outcome, Ok)
    measurements = tuple(
        replace(m, rounds=tuple(tuple(factor * s for s in r) for r in m.rounds))
        if isinstance(m, Measured) and m.metric in ("latency", "accuracy")
        else m
        for m in record.outcome.measurements
    )
    return replace(record, outcome=replace(record.outcome, measurements=measurements))


def test_a_row_is_found_by_id_start_or_digits(root: Path) -> None:
    found = find_row(root, ROW)
    case_id = found.record.case.id
    assert find_row(root, case_id) == found
    assert find_row(root, case_id[-8:]) == found
    assert find_row(root, case_id[-9:]) == found
    assert found.run.created == "2026-02-02T03:04:05Z"


def test_a_row_that_is_not_there_gets_the_nearest(root: Path) -> None:
    with pytest.raises(UnknownName, match=r"Right up to '.*/32x3'\..*Did you mean\n  softmax/"):
        find_row(root, find_row(root, ROW).record.case.id.replace("32x32", "32x33"))
    with pytest.raises(UnknownName, match="None begins like it") as refusal:
        find_row(root, "#00000000")
    assert str(refusal.value).count("\n") == 0, "thousands of ids are no help"


def test_the_row_of_an_older_run_is_found_by_its_run(root: Path) -> None:
    newest = find_row(root, ROW)
    (older,) = newest.others
    assert older.startswith(f"{newest.run.environment.hardware_id}/20260102")
    found = find_row(root, ROW, older)
    assert found.run.created < newest.run.created
    assert found.record.case == newest.record.case
    assert found.others == ()
    with pytest.raises(UnknownName, match="no run 'nothing'"):
        find_row(root, ROW, "nothing")
    with pytest.raises(UnknownName, match=f"no published row 'absent' in run {older}"):
        find_row(root, "absent", older)


def test_several_rows_are_listed(root: Path) -> None:
    with pytest.raises(ValueError, match="give more of the id:\n  softmax/"):
        find_row(root, "softmax/")


def test_the_plan_has_the_row_and_its_protocol(root: Path) -> None:
    found = find_row(root, ROW)
    plan = repeat_plan(found)
    assert plan.cases == (found.record.case,)
    assert plan.protocol == found.run.protocol


@pytest.mark.parametrize(
    ("factor", "agreement"),
    [(1.0, "within the interval"), (1.005, "within the interval"), (0.5, "faster"), (2, "slower")],
)
def test_verdicts(root: Path, factor: float, agreement: str) -> None:
    found = find_row(root, ROW)
    judged = judge(found, found.run.environment, timed(found.record, factor))
    assert judged.agreement == agreement
    assert judged.agrees == (agreement == "within the interval")
    assert judged.differences == ()
    assert "published" in judged.words
    assert judged.verdict == {
        0.5: "50.0 % faster", 1.0: "within the interval", 2: "100.0 % slower",
    }.get(factor, "within the interval")  # fmt: skip


def test_a_rough_repetition_confirms_nothing(root: Path) -> None:
    """4.3 times as long is not within the interval because the interval here is wide."""
    found = find_row(root, ROW)
    outcome = found.record.outcome
    assert isinstance(outcome, Ok)
    rough = tuple(
        replace(m, rounds=tuple(tuple(4.3 * f * s for s in r) for f, r in
                                zip((0.2, 1.0, 5.0), m.rounds, strict=True)))
        if isinstance(m, Measured) and m.metric == "latency" else m
        for m in outcome.measurements
    )  # fmt: skip
    record = replace(found.record, outcome=replace(outcome, measurements=rough))
    judged = judge(found, found.run.environment, record)
    assert judged.agreement == "undecided"
    assert not judged.agrees
    assert "the intervals overlap" in judged.verdict
    assert judged.words.count("95 %") == 2
    other = Published(run=found.run, record=record)
    assert agrees(found, other) is None
    assert agrees(found, Published(run=found.run, record=timed(found.record, 2))) is False


def test_a_better_accuracy_is_another_result(root: Path) -> None:
    found = find_row(root, "softmax/reference/model/digits/seed0")
    assert judge(found, found.run.environment, found.record).agrees
    assert not judge(found, found.run.environment, timed(found.record, 0.9)).agrees


def test_the_verdict_on_an_accuracy_is_in_points(root: Path) -> None:
    found = find_row(root, "softmax/reference/model/digits/seed0")
    lower = judge(found, found.run.environment, timed(found.record, 0.9))
    assert lower.verdict.endswith("percentage points lower")
    assert float(lower.verdict.split()[0]) == pytest.approx(100 * 0.1 * 337 / 360, abs=0.1)


def test_the_verdict_on_a_failure_names_both_endings(root: Path) -> None:
    found = find_row(root, ROW)
    failed = replace(found.record, outcome=NotRun(reason="no time"))
    assert judge(found, found.run.environment, failed).verdict == "not run instead of ok"
    published = Published(run=found.run, record=failed)
    assert judge(published, found.run.environment, failed).verdict == "not run again"


def test_a_reproduction_never_takes_the_place_of_the_row(tmp_path: Path) -> None:
    base, again = run_with_latency(1.0, "2026-01-02"), run_with_latency(1.01, "2026-02-02")
    case_id = next(r.case.id for r in base.records if r.case.id.startswith(ROW))
    (file,) = again.files
    single = replace(file, records=tuple(r for r in file.records if r.case.id == case_id))
    plan = repeat_plan(find_in(base, case_id))
    header = replace(
        again.run, plan=plan.name, plan_digest=plan.digest, submitted_by="bob",
        conditions=replace(again.run.conditions, noise=()),
    )  # fmt: skip
    write_run(tmp_path, base.run, base.files)
    write_run(tmp_path, header, (single,))
    assert "R315" not in {f.rule for f in check_results(tmp_path)}
    assert find_row(tmp_path, case_id).run.created == base.run.created
    table = load_table(tmp_path, catalogue(), judge=True)
    assert set(table.rows["run_id"]) == {base.run.run_id}
    assert set(table.history["case_id"]) == {case_id}
    assert set(table.history["plan"]) == {"repro"}


def find_in(stored: StoredRun, case_id: str) -> Published:
    (record,) = (r for r in stored.records if r.case.id == case_id)
    return Published(run=stored.run, record=record)


def test_failures_repeat_too(root: Path) -> None:
    found = find_row(root, ROW)
    failed = replace(found.record, outcome=NotRun(reason="no time"))
    published = Published(run=found.run, record=failed)
    assert judge(published, found.run.environment, failed).agreement == "same outcome"
    other = judge(found, found.run.environment, failed)
    assert other.agreement == "other outcome"
    assert "not_run (no time)" in other.words


def test_environment_differences_are_listed() -> None:
    one = sample_environment()
    two = replace(one, torch="2.99.0", settings={**one.settings, "tf32": True, "new": 1})
    assert list(environment_differences(one, two)) == [
        "torch: 2.13.0 -> 2.99.0", "settings.new: None -> 1", "settings.tf32: False -> True",
    ]  # fmt: skip
    assert list(environment_differences(one, one)) == []


def test_two_runs_are_compared(tmp_path: Path) -> None:
    base, fast = run_with_latency(1.0, "2026-01-02"), run_with_latency(0.5, "2026-02-02")
    for stored in (base, fast):
        write_run(tmp_path, stored.run, stored.files)
    text = compare_runs(tmp_path, base.run.run_id, fast.run.run_id)
    assert "B is" in text
    assert ", 0 slower, 0 undecided" in text
    line = next(line for line in text.splitlines() if ROW in line)
    assert line.split()[:3] == ["0.500", line.split()[1], "faster"]
    assert "0 outcomes differ; 0 cases are in A alone, 0 in B alone" in text
    assert line.split()[3].isdigit() or line.split()[3][0].isdigit()
    same = compare_runs(tmp_path, base.run.run_id, base.run.run_id)
    assert "B is 0 faster, 0 slower" in same


def test_changed_outcomes_are_said(tmp_path: Path) -> None:
    base = run_with_latency(1.0, "2026-01-02")
    failed = tuple(replace(r, outcome=NotRun(reason="x")) for r in base.files[0].records)
    other = replace(base.run, created="2026-03-02T03:04:05Z")
    write_run(tmp_path, base.run, base.files)
    write_run(tmp_path, other, (replace(base.files[0], records=failed),))
    assert "outcome ok -> not_run" in compare_runs(tmp_path, "20260102", "20260302")


def test_runs_without_a_common_case_cannot_be_compared(tmp_path: Path) -> None:
    write_sample(tmp_path, variants=("softmax",))
    write_sample(tmp_path, variants=("inline",), created="2026-03-02T03:04:05Z")
    with pytest.raises(ValueError, match="no case in common"):
        compare_runs(tmp_path, "20260102", "20260302")
