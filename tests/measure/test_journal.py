"""The journal loses at most the running visit, and refuses what does not belong to it."""

import json
import random
import resource
from dataclasses import replace

import pytest
import tiny

from bench import merge
from bench.journal import Journal, JournalError
from bench.journal_lines import Entry, VariantSource
from bench.model import (
    Crashed,
    Measured,
    NotRun,
    Ok,
    RepeatedCase,
    TimedOut,
    Unavailable,
)

A, B = tiny.case(tokens=16), tiny.case(tokens=32)
PLAN = tiny.plan(A, B, noise=(A,))


def ok(*latencies: float) -> Ok:
    return Ok(
        measurements=(Measured(metric="latency", rounds=(tuple(latencies),)),),
        executed="reference",
        batch=1,
    )


def entry(case, round_=0, repetition=0, outcome=None, load=0.0) -> Entry:
    return Entry(
        case_id=case.id,
        round=round_,
        repetition=repetition,
        outcome=outcome or ok(1.0, 2.0, 3.0),
        wall_s=1.0,
        measured_s=0.25,
        foreign_load=load,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


@pytest.fixture
def written(path):
    with Journal.create(path, tiny.header(PLAN)) as journal:
        journal.append(entry(A))
        journal.append(entry(B))
    return path


def test_what_was_appended_is_read_back(written):
    with Journal.open(written) as journal:
        assert journal.header == tiny.header(PLAN)
        assert [e.case_id for e in journal.entries] == [A.id, B.id]


def test_a_torn_last_line_is_dropped_and_overwritten(written):
    whole = written.read_bytes()
    written.write_bytes(whole + b'{"case_id": "torn')
    with Journal.open(written) as journal:
        assert len(journal.entries) == 2
        journal.append(entry(A, round_=1))
    with Journal.open(written) as journal:
        assert [e.round for e in journal.entries] == [0, 0, 1]
    assert written.read_bytes().startswith(whole)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_any_cut_through_the_last_line_loses_that_line_only(written, cut):
    written.write_bytes(written.read_bytes()[:-cut])
    with Journal.open(written) as journal:
        assert len(journal.entries) == 1


def test_a_damaged_line_before_the_last_is_refused_with_its_place(written):
    lines = written.read_text().splitlines()
    damaged = json.loads(lines[1])
    damaged["round"] = -1
    written.write_text("\n".join([lines[0], json.dumps(damaged), lines[2]]) + "\n")
    with pytest.raises(JournalError, match=r"run.jsonl:2: damaged at round"):
        Journal.open(written)


def test_a_visit_that_is_there_twice_is_refused(written):
    lines = written.read_text().splitlines()
    written.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(JournalError, match="is there twice"):
        Journal.open(written)


def test_an_existing_journal_is_not_overwritten(written):
    with pytest.raises(JournalError, match="resume it"):
        Journal.create(written, tiny.header(PLAN))


def test_two_launchers_cannot_write_one_journal(written):
    with Journal.open(written), pytest.raises(JournalError, match="another process"):
        Journal.open(written)


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_line(written):
    """A limit on the file's size makes the kernel take part of a line and refuse the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = written.read_bytes()
    with Journal.open(written) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, hard))
        try:
            with pytest.raises(JournalError, match="free space, then resume"):
                journal.append(entry(A, round_=1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert written.read_bytes() == before
        journal.append(entry(A, round_=1))
    with Journal.open(written) as journal:
        assert len(journal.entries) == 3


def test_a_disk_full_from_the_start_leaves_no_journal(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        with pytest.raises(JournalError, match="cannot be written"):
            Journal.create(path, tiny.header(PLAN))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists()


def changed_machine(header):
    environment = replace(header.environment, hardware_id="other-1c-1g")
    return replace(header, environment=environment)


def changed_protocol(header):
    return replace(header, plan=replace(PLAN, protocol=replace(PLAN.protocol, sample_s=9.0)))


def changed_plan(header):
    return replace(header, plan=replace(PLAN, cases=(A,)))


def changed_source(header):
    source = VariantSource(revision=1, source_sha256="1" * 64)
    return replace(header, variants={"softmax": source})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (changed_machine, "hardware was test-1c-1g, is other-1c-1g"),
        (changed_protocol, "protocol.sample_s was 0.002, is 9.0"),
        (changed_plan, "plan was tiny"),
        (changed_source, "variant softmax was revision 1 0000"),
    ],
)
def test_a_resume_under_other_conditions_is_refused_by_name(written, change, named):
    header = tiny.header(PLAN)
    with Journal.open(written) as journal:
        journal.check_resumable(replace(header, created="2027-01-01T00:00:00Z"))
        with pytest.raises(JournalError, match=named):
            journal.check_resumable(change(header))


def full_set() -> list[Entry]:
    return [
        entry(case, round_, repetition, ok(1.0 + round_, 2.0, 3.0 + repetition))
        for round_ in range(3)
        for case, repetitions in ((A, 2), (B, 1), (PLAN.anchor, 2))
        for repetition in range(repetitions)
    ]


def merged(path, entries):
    with Journal.create(path, tiny.header(PLAN)) as journal:
        for one in entries:
            journal.append(one)
        return merge.records(PLAN, journal), merge.conditions(PLAN, journal)


def test_records_do_not_depend_on_the_order_of_the_visits(tmp_path):
    entries = full_set()
    expected = merged(tmp_path / "0", entries)
    for seed in range(1, 4):
        random.Random(seed).shuffle(entries)
        assert merged(tmp_path / str(seed), entries) == expected


def test_rounds_are_put_together_and_repetitions_only_give_noise_and_drift(path):
    records, conditions = merged(path, full_set())
    by_case = {record.case.id: record.outcome for record in records}
    assert isinstance(by_case[A.id], Ok)
    (latency,) = by_case[A.id].measurements
    assert latency.rounds == ((1.0, 2.0, 3.0), (2.0, 2.0, 3.0), (3.0, 2.0, 3.0))
    assert conditions.noise == (
        RepeatedCase(case=A, latencies_s=((2.0, 2.0), (2.0, 2.0), (3.0, 3.0))),
    )
    assert conditions.drift is not None
    assert len(conditions.drift.latencies_s) == 3
    assert conditions.measured_s == pytest.approx(15 * 0.25)


def test_a_failure_in_any_visit_is_the_case_s_outcome(path):
    entries = full_set()
    crash = Crashed(exit_code=1, reason="late")
    entries[-5] = replace(entries[-5], outcome=crash)
    assert (entries[-5].case_id, entries[-5].round) == (A.id, 2)
    records, _ = merged(path, entries)
    assert {r.case.id: r.outcome for r in records}[A.id] == crash


def test_a_metric_missing_from_one_round_is_unavailable(path):
    gone = Unavailable(metric="latency", reasons=("clock stolen",))
    entries = full_set()
    entries[2] = replace(entries[2], outcome=replace(ok(1.0), measurements=(gone,)))
    records, _ = merged(path, entries)
    outcome = {r.case.id: r.outcome for r in records}[B.id]
    assert outcome.measurements == (gone,)


def test_a_case_that_was_never_visited_is_not_run(path):
    records, _ = merged(path, [entry(A)])
    outcomes = {r.case.id: r.outcome for r in records}
    assert isinstance(outcomes[B.id], NotRun)
    assert isinstance(outcomes[A.id], Ok)


def test_a_busy_machine_is_marked_and_a_quiet_one_is_not(tmp_path):
    quiet = [replace(e, foreign_load=0.05) for e in full_set()]
    busy = [replace(e, foreign_load=1.5) for e in full_set()]
    assert not merged(tmp_path / "quiet", quiet)[1].busy
    assert merged(tmp_path / "busy", busy)[1].busy


def test_a_timeout_keeps_its_place_among_the_outcomes(path):
    records, _ = merged(path, [entry(A, outcome=TimedOut(limit_s=1.0)), entry(B)])
    assert {r.outcome.kind for r in records} == {"timed_out", "ok"}
