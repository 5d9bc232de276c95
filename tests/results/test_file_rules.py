"""Rules about files, history and several runs: each finds what was planted, and nothing else."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from results_in_memory import run_with_latency
from sample_run import write_sample

from bench.ledger import ledger
from bench.model import Measured, Ok, Record
from bench.rules import check_results, files
from bench.rules.rule import LONGEST_MESSAGE, one_line
from bench.submission import StoredRun, write_run
from bench.tier import Finding

Change = Callable[[StoredRun], StoredRun]


def found(root: Path, rule: str, **given: Any) -> list[Finding]:
    return [f for f in check_results(root, **given) if f.rule == rule]


def write(root: Path, stored: StoredRun) -> Path:
    return write_run(root, stored.run, stored.files)


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Sample", "-c", "user.email=sample@example.org")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A results folder on a branch off main, one run committed on main."""
    root = tmp_path / "results"
    write(root, run_with_latency(1.0, "2026-01-02"))
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "checkout", "-q", "-b", "mine")
    return root


def commit(root: Path) -> None:
    git(root, "add", "-A", "..")
    git(root, "commit", "-q", "-m", "more")


# History ------------------------------------------------------------------------------------------


def test_files_added_to_a_published_run_are_found(repository: Path) -> None:
    (folder,) = (repository / "sample-cpu").iterdir()
    (folder / "inline.json").write_text("{}")
    (refusal,) = found(repository, "R101")
    assert "not listed" in refusal.message
    assert found(repository, "R103") == []


def test_the_base_can_be_given_and_must_exist(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    path = next(repository.rglob("softmax.json"))
    path.write_text(path.read_text() + "\n")
    commit(repository)
    git(repository, "branch", "-f", "main", "HEAD")  # what a forger would like to be compared with
    assert found(repository, "R103") == []
    assert [f.severity for f in found(repository, "R103", base=head)] == ["error"]
    with pytest.raises(ValueError, match="no commit in common"):
        check_results(repository, base="nowhere")


def test_the_base_stays_where_the_branch_began(repository: Path) -> None:
    """Runs that reach main later are no deletions of this branch."""
    git(repository, "checkout", "-q", "main")
    write(repository, run_with_latency(1.0, "2026-05-02"))
    commit(repository)
    git(repository, "checkout", "-q", "mine")
    write(repository, run_with_latency(1.02, "2026-06-02"))
    commit(repository)
    asked = ledger(repository)
    assert asked is not None
    assert asked.named == "main"
    assert found(repository, "R103") == []


def test_runs_and_code_on_one_branch_need_a_look(repository: Path) -> None:
    (repository.parent / "code.py").write_text("2")
    commit(repository)
    assert found(repository, "R104") == []
    folder = write(repository, run_with_latency(1.02, "2026-02-02"))
    commit(repository)
    (finding,) = found(repository, "R104")
    assert (finding.severity, finding.path) == ("review", f"sample-cpu/{folder.name}")
    assert "code.py" in finding.message


def test_runs_alone_are_fine(repository: Path) -> None:
    write(repository, run_with_latency(1.02, "2026-02-02"))
    commit(repository)
    assert found(repository, "R104") == []


def test_a_commit_that_nobody_has_is_found(repository: Path) -> None:
    (finding,) = found(repository, "R213")
    assert "0000000000 is not in the history" in finding.message
    known = run_with_latency(1.02, "2026-02-02")
    write(
        repository,
        replace(known, run=replace(known.run, commit=git(repository, "rev-parse", "HEAD"))),
    )
    assert len(found(repository, "R213")) == 1


@pytest.mark.parametrize(
    ("account", "submitter", "findings"),
    [("alice", "alice", 0), ("Alice", "alice", 0), ("bob", "alice", 1), ("bob", "anonymous", 0),
     (None, "alice", 0)],
)  # fmt: skip
def test_a_new_run_is_submitted_by_who_measured_it(
    repository: Path, account: str | None, submitter: str, findings: int
) -> None:
    new = run_with_latency(1.02, "2026-02-02")
    folder = write(repository, replace(new, run=replace(new.run, submitted_by=submitter)))
    told = found(repository, "R109", account=account)
    assert len(told) == findings
    assert all(f.path.startswith(f"sample-cpu/{folder.name}") for f in told)


def test_published_runs_of_others_are_not_the_submitters_business(repository: Path) -> None:
    known = run_with_latency(1.02, "2026-02-02")
    write(repository, replace(known, run=replace(known.run, submitted_by="alice")))
    commit(repository)
    git(repository, "branch", "-f", "main", "HEAD")
    assert found(repository, "R109", account="bob") == []


# Names, kinds, layout, size -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["con.json", "AUX", "paper.json ", "dot.", "a:b.json", "back\\slash", "line\nbreak",
             "x" * 190],
)  # fmt: skip
def test_names_for_few_systems_are_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "reported").mkdir()
    (tmp_path / "reported" / name).write_text("{}")
    (finding,) = found(tmp_path, "R105")
    assert finding.severity == "error"
    assert "\n" not in str(finding)


@pytest.mark.parametrize(
    ("one", "other"),
    [("paper", "Paper"), ("r\u00e9sum\u00e9", "re\u0301sume\u0301")],
)  # fmt: skip
def test_names_that_collide_on_some_systems_are_found(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "reported").mkdir()
    for name in (one, other):
        (tmp_path / "reported" / f"{name}.json").write_text("{}")
    if len(list((tmp_path / "reported").iterdir())) == 1:
        pytest.skip("this file system cannot hold both names")
    (finding,) = found(tmp_path, "R105")
    assert "differs from" in finding.message


def test_usual_names_are_fine(tmp_path: Path) -> None:
    write_sample(tmp_path, variants=("softmax",))
    assert found(tmp_path, "R105") == []


def test_links_and_programs_beside_runs_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "analyses" / "sample-cpu"
    folder.mkdir(parents=True)
    (folder / "plain.json").write_text("{}")
    assert found(tmp_path, "R106") == []
    (folder / "link.json").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("../..")
    (folder / "plain.json").chmod(0o755)
    os.mkfifo(folder / "pipe")
    told = {f.path.rpartition("/")[2]: f.message for f in found(tmp_path, "R106")}
    assert sorted(told) == ["link.json", "pipe", "plain.json", "up"]
    assert "executable" in told["plain.json"]


def test_another_layout_is_found(tmp_path: Path) -> None:
    folder = write_sample(tmp_path, variants=("softmax",))
    assert found(tmp_path, "R107") == []
    header = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(header, indent=4))
    (finding,) = found(tmp_path, "R107")
    assert finding.path.endswith("/run.json")


def test_large_runs_and_many_runs_need_a_look(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(repository, "R108") == []
    with monkeypatch.context() as smaller:
        smaller.setattr(files, "LARGEST_RUN_BYTES", 1000)
        assert [f.severity for f in found(repository, "R108")] == ["review"]
    monkeypatch.setattr(files, "MOST_NEW_RUNS", 1)
    write(repository, run_with_latency(1.02, "2026-02-02"))
    assert found(repository, "R108") == []
    write(repository, run_with_latency(1.04, "2026-03-02"))
    (finding,) = found(repository, "R108")
    assert "adds 2 runs" in finding.message


# Several runs -------------------------------------------------------------------------------------


def sampled(stored: StoredRun, samples: Callable[[int, tuple[float, ...]], Any]) -> StoredRun:
    """The run with every round of latency made by `samples` of its number and old samples."""

    def change(record: Record) -> Record:
        if not isinstance(record.outcome, Ok):
            return record
        measurements = tuple(
            replace(m, rounds=tuple(tuple(samples(n, r)) for n, r in enumerate(m.rounds)))
            if isinstance(m, Measured) and m.metric == "latency" else m
            for m in record.outcome.measurements
            if m.metric != "latency_cold"
        )  # fmt: skip
        return replace(record, outcome=replace(record.outcome, measurements=measurements))

    (file,) = stored.files
    return replace(stored, files=(replace(file, records=tuple(map(change, file.records))),))


def long_rounds(seed: int) -> Callable[[int, tuple[float, ...]], tuple[float, ...]]:
    """Twenty samples a round, near the old ones, other ones for each seed."""
    return lambda n, old: tuple(
        old[k % len(old)] * (1 + 1e-3 * ((7919 * (k + 1) * (n + 3) + 104729 * seed) % 997) / 997)
        for k in range(20)
    )


def partly(first: Any, every: int, shift: int = 0) -> Any:
    """Rounds of `first`, shifted, with each `every`-th sample changed a little."""

    def samples(n: int, old: tuple[float, ...]) -> tuple[float, ...]:
        copied = first(n, old)
        copied = (*copied[shift:], *(1.01 * s for s in copied[:shift]))
        return tuple(1.003 * s if k % every == every - 1 else s for k, s in enumerate(copied))

    return samples


@pytest.mark.parametrize(
    ("second", "copied"),
    [(long_rounds(1), True), (partly(long_rounds(1), 5), True),
     (partly(long_rounds(1), 10, shift=2), True), (long_rounds(2), False),
     (partly(long_rounds(1), 2), False)],
    ids=["whole", "four fifths", "shifted", "measured", "half"],
)  # fmt: skip
def test_copies_are_found_even_with_changes(tmp_path: Path, second: Any, copied: bool) -> None:
    base = run_with_latency(1.0, "2026-01-02")
    later = replace(base, run=replace(base.run, created="2026-02-02T03:04:05Z"))
    write(tmp_path, sampled(base, long_rounds(1)))
    write(tmp_path, sampled(later, second))
    assert bool(found(tmp_path, "R701")) == copied


def test_the_best_of_several_runs_needs_a_look(tmp_path: Path) -> None:
    write(tmp_path, run_with_latency(1.0, "2026-01-02"))
    again = run_with_latency(0.98, "2026-02-02")
    for header in (
        replace(again.run, commit="1" * 40),
        replace(again.run, submitted_by="bob", created="2026-02-03T03:04:05Z"),
        replace(again.run, plan_digest="1" * 64, created="2026-02-04T03:04:05Z"),
    ):
        write_run(tmp_path, header, again.files)
    assert found(tmp_path, "R703") == []
    write(tmp_path, again)
    assert [f.severity for f in found(tmp_path, "R703")] == ["review"]


def test_other_data_by_the_same_recipe_need_a_look(tmp_path: Path) -> None:
    one, other = run_with_latency(1.0, "2026-01-02"), run_with_latency(1.02, "2026-02-02")
    write(tmp_path, one)
    write(tmp_path, other)
    assert found(tmp_path, "R704") == []

    def on_other_data(record: Record) -> Record:
        training = record.outcome.training if isinstance(record.outcome, Ok) else None
        if training is None or not isinstance(record.outcome, Ok):
            return record
        moved = replace(training, data_sha256="0" * 64)
        return replace(record, outcome=replace(record.outcome, training=moved))

    (file,) = other.files
    changed = replace(file, records=tuple(map(on_other_data, file.records)))
    header = replace(other.run, created="2026-03-02T03:04:05Z")
    write_run(tmp_path, header, (changed,))
    (finding,) = found(tmp_path, "R704")
    assert finding.severity == "review"


# What is printed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["a\nb", "::error::x\r\ny", "\x1b[31mred", "right\u202eleft", "\u2028", "\x00", "\ud800"],
)
def test_findings_are_one_printable_line(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable()
    assert shown.encode()


def test_findings_are_of_bounded_length() -> None:
    assert len(one_line("x" * 10**7)) == LONGEST_MESSAGE + 3
    assert len(one_line("\n" * 10**7)) == LONGEST_MESSAGE + 3
    assert one_line("plain") == "plain"
