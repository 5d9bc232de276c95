"""Parts of one plan put together: concatenation with a check, and strangers refused by name."""

import shlex
from dataclasses import replace

import pytest
import tiny
from click.testing import CliRunner
from simulated import ok

from bench import merge
from bench.cli import main
from bench.journal import Journal, JournalError
from bench.journal_lines import Arrival, Entry, VariantSource
from bench.schedule import visits
from bench.shards import missing, put_together

A, B = tiny.case(tokens=16), tiny.case(tokens=32)
PLAN = tiny.plan(A, B, noise=(A,))
HEADER = tiny.header(PLAN)


def entry(turn):
    return Entry(
        case_id=turn.visit.case_id,
        round=turn.visit.round,
        repetition=turn.visit.repetition,
        outcome=ok(turn.case, turn.visit.round),
        wall_s=1.0,
        measured_s=0.5,
        foreign_load=0.0,
    )


def journal(path, turns, header=HEADER):
    with Journal.create(path, header) as written:
        for turn in turns:
            written.append(entry(turn))
    return path


@pytest.fixture
def halves(tmp_path):
    turns = visits(PLAN, "cpu")
    return [journal(tmp_path / f"{n}.jsonl", turns[n::2]) for n in range(2)]


def test_parts_give_the_records_of_the_whole(tmp_path, halves):
    with Journal.open(journal(tmp_path / "whole.jsonl", visits(PLAN, "cpu"))) as whole:
        expected = merge.records(PLAN, whole), merge.conditions(PLAN, whole).noise
    for number, order in enumerate((halves, halves[::-1])):
        with put_together(order, tmp_path / f"joined{number}.jsonl") as joined:
            assert (merge.records(PLAN, joined), merge.conditions(PLAN, joined).noise) == expected
            assert missing(joined) == 0


def test_a_full_disk_leaves_no_half_of_a_run(tmp_path, halves, monkeypatch):
    """It would pass for a run that was stopped, whose visits can be made again."""
    target, honest = tmp_path / "joined.jsonl", Journal.append

    def full(self, entry):
        if len(self.entries) == 3:
            raise JournalError("disk full")
        honest(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        with pytest.raises(JournalError, match="disk full"):
            put_together(halves, target)
    assert not target.exists()
    put_together(halves, target).close()


def test_what_is_missing_is_counted(tmp_path, halves):
    with put_together(halves[:1], tmp_path / "joined.jsonl") as joined:
        assert missing(joined) == len(visits(PLAN, "cpu")) - len(joined.entries) > 0


def test_limits_of_every_part_are_kept(tmp_path, halves):
    other = replace(HEADER.ceilings[0], samples=(2e9,))
    header = replace(HEADER, ceilings=(other,))
    third = journal(tmp_path / "third.jsonl", (), header)
    with Journal.open(third) as again:
        again.arrived(Arrival(slot="n, gpu 0", ceilings=(other,)))
    with put_together([*halves, third], tmp_path / "joined.jsonl") as joined:
        assert [a.ceilings for a in joined.arrivals] == [(other,), (other,)]


def test_a_visit_in_two_parts_is_refused_by_name(tmp_path, halves):
    again = journal(tmp_path / "again.jsonl", visits(PLAN, "cpu")[:1])
    with pytest.raises(JournalError, match=r"0\.jsonl and again\.jsonl both hold softmax"):
        put_together([*halves, again], tmp_path / "joined.jsonl")
    assert not (tmp_path / "joined.jsonl").exists()


def test_a_part_that_is_given_twice_is_refused(tmp_path, halves, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JournalError, match=r"0\.jsonl was given twice; name each journal once"):
        put_together([*halves, halves[0].relative_to(tmp_path)], tmp_path / "joined.jsonl")
    assert not (tmp_path / "joined.jsonl").exists()


def test_the_command_that_makes_the_rest_holds_what_the_parts_were_begun_with(tmp_path):
    header = replace(HEADER, only="softmax/* inline", variant_files=("/elsewhere/my own.py",))
    part = journal(tmp_path / "part.jsonl", visits(PLAN, "cpu")[:1], header)
    results = tmp_path / "my results"
    said = CliRunner().invoke(main, ["merge", str(part), "--results", str(results)]).output
    assert shlex.split(said.splitlines()[-1]) == [
        "nox", "-s", "bench", "--", "--plan", PLAN.name, "--only", "softmax/* inline",
        "--variant-file", "/elsewhere/my own.py", "--results", str(results), "--resume",
    ]  # fmt: skip


SOURCE = {"softmax": VariantSource(revision=1, source_sha256="1" * 64)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"commit": "a" * 40}, "commit was None, is aaaa"),
        ({"plan": replace(PLAN, cases=(A,))}, "plan was tiny"),
        ({"plan": replace(PLAN, protocol=replace(PLAN.protocol, rounds=9))}, "protocol.rounds"),
        ({"suite_version": "9"}, "suite version was 0, is 9"),
        ({"variants": SOURCE}, "variant softmax was revision 1 0000"),
        ({"environment": replace(HEADER.environment, hardware_id="x-1g")}, "hardware was test"),
        ({"environment": replace(HEADER.environment, driver="9")}, "driver is 9, not None"),
    ],
)
def test_a_part_of_other_code_plan_protocol_or_hardware_is_refused_by_name(
    tmp_path, halves, change, named
):
    stranger = journal(tmp_path / "stranger.jsonl", (), replace(HEADER, **change))
    with pytest.raises(
        JournalError, match=rf"stranger\.jsonl does not belong to 0\.jsonl.*{named}"
    ):
        put_together([*halves, stranger], tmp_path / "joined.jsonl")
    assert not (tmp_path / "joined.jsonl").exists()


def test_the_command_writes_the_run_or_says_what_is_missing(tmp_path, halves):
    results = tmp_path / "results"
    short = CliRunner().invoke(main, ["merge", str(halves[0]), "--results", str(results)])
    assert short.exit_code == 0, short.output
    assert "visits are missing" in short.output
    assert not results.exists()
    (left,) = (tmp_path / ".attnbench").glob("*.jsonl")
    left.unlink()
    whole = CliRunner().invoke(main, ["merge", *map(str, halves), "--results", str(results)])
    assert whole.exit_code == 0, whole.output
    assert len(list(results.glob("test-1c-1g/*/run.json"))) == 1
    wrong = CliRunner().invoke(main, ["merge", str(tmp_path / "none"), "--results", str(results)])
    assert wrong.exit_code == 1
    assert "no such journal" in wrong.output
