"""Files and numbers that once stopped the reader, the rules or the tiers, or slipped past them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from planted import sample
from sample_run import sample_header, sample_records, write_sample
from sample_site import catalogue

from bench import reproduce, strict_json, submission
from bench.comparison import compare_runs
from bench.model import Measured, Ok, Record
from bench.reproduce import agrees
from bench.rules import check_results, check_run
from bench.strict_json import StrictJsonError, parse
from bench.submission import StoredRun, read_results, read_run, write_run
from bench.tidy import frames
from bench.trust import trust


def findings(root: Path, rule: str) -> list[str]:
    return [f"{f.path}: {f.message}" for f in check_results(root) if f.rule == rule]


def test_a_schema_in_another_encoding_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_bytes(b'{"title": "\xff"}')
    (found,) = findings(tmp_path, "R102")
    assert found.startswith("schema.json: ")


def test_many_keys_and_one_of_them_twice_take_no_time() -> None:
    """Counting each name in all names took minutes for a file within the limit."""
    keys = ", ".join(f'"k{n}": 0' for n in range(60_000))
    with pytest.raises(StrictJsonError, match="'k7' occurs more than once"):
        parse(f'{{{keys}, "k7": 1}}'.encode())


@pytest.mark.parametrize("character", ["\x80", "\x9b", "\x9f"])
def test_control_characters_of_eight_bits_are_refused(character: str) -> None:
    with pytest.raises(StrictJsonError, match=rf"U\+00{ord(character):02X} in a text"):
        parse(f'"{character}31m"'.encode())


@pytest.mark.parametrize("kind", ["loop", "nowhere", "endless", "folder"])
def test_what_is_no_report_is_not_opened(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "analyses" / "sample-cpu"
    folder.mkdir(parents=True)
    path = folder / "rank.json"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"loop": path, "nowhere": folder / "no", "endless": "/dev/zero"}[kind])
    (found,) = findings(tmp_path, "R101")
    assert found == (
        "analyses/sample-cpu/rank.json: is not a plain file; links and folders are not allowed here"
    )


def test_a_pipe_beside_machines_is_said(tmp_path: Path) -> None:
    write_sample(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (refusal,) = read_results(tmp_path)[1]
    assert (refusal.path, refusal.reason) == ("pipe", "a file has no place at this level")


def test_a_run_of_many_large_files_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_sample(tmp_path)
    size = sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setattr(submission, "MOST_BYTES", size)
    assert read_run(folder)
    monkeypatch.setattr(submission, "MOST_BYTES", size - 1)
    runs, (refusal,) = read_results(tmp_path)
    assert runs == ()
    assert refusal.reason == f"{size:,} bytes, allowed {size - 1:,} for a run"


def test_a_file_that_cannot_be_read_is_refused_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_sample(tmp_path)
    second = write_sample(tmp_path, created="2026-02-02T00:00:00Z")
    lstat = Path.lstat

    def denied(path: Path) -> os.stat_result:
        if path.parent == first and path.name == "softmax.json":
            raise PermissionError(13, "Permission denied")
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", denied)
    runs, (refusal,) = read_results(tmp_path)
    assert [run.folder for run in runs] == [second]
    assert refusal.reason == "cannot be read: Permission denied"


def test_two_runs_of_one_id_are_not_both_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten digits of a digest can be made equal; what is known of a row is kept by run_id."""
    run_id = "20260102t030405z-0123456789"
    monkeypatch.setattr(submission, "content_id", lambda _run, _files: run_id)
    for machine in ("one-cpu", "two-cpu"):
        write_run(tmp_path, sample_header(hardware_id=machine), sample_records(("softmax",)))
    (run,), (refusal,) = read_results(tmp_path)
    assert run.run.environment.hardware_id == "one-cpu"
    assert refusal.path == f"two-cpu/{run_id}/run.json"
    assert f"one-cpu/{run_id}" in refusal.reason


# Numbers ------------------------------------------------------------------------------------------


def with_value(stored: StoredRun, kind: str, metric: str, *samples: float) -> StoredRun:
    """The run of another account, whose first case of a kind has these samples."""

    def change(record: Record) -> Record:
        outcome = record.outcome
        if record.case.stimulus.kind != kind or not isinstance(outcome, Ok):
            return record
        measurements = tuple(
            Measured(metric=metric, rounds=(samples,) * len(m.rounds))
            if isinstance(m, Measured) and m.metric == metric
            else m
            for m in outcome.measurements
        )
        return replace(record, outcome=replace(outcome, measurements=measurements))

    files = tuple(replace(f, records=tuple(map(change, f.records))) for f in stored.files)
    return replace(stored, run=replace(stored.run, run_id="another", submitted_by="mallory"),
                   files=files)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "metric", "value"),
    [("frontier", "largest_tokens", 0), ("task", "accuracy", 97.5), ("workload", "latency", 0.0)],
)
def test_tiers_of_all_rows_are_computed_beside_a_row_of_any_number(
    kind: str, metric: str, value: float
) -> None:
    honest = replace(sample(), run=replace(sample().run, submitted_by="alice"))
    planted = with_value(honest, kind, metric, value)
    found = [finding for run in (honest, planted) for finding in check_run(run)]
    judged = trust((honest, planted), found, sources={}, maintainers=frozenset())
    tiers = {run_id: one.tier for (run_id, case), one in judged.items() if _is_of(case, kind)}
    assert tiers == {honest.run.run_id: "self-reported", "another": "not accepted"}


def _is_of(case: str, kind: str) -> bool:
    words = {"frontier": "/frontier/", "task": "/digits/seed0", "workload": "/layer/b1/14x14/"}
    return words[kind] in case and case.startswith("softmax/reference")


def test_a_frontier_of_nothing_is_told_without_a_share() -> None:
    run = sample().run
    (record,) = (
        r for r in sample().records
        if r.case.stimulus.kind == "frontier" and r.case.variant == "softmax"
    )  # fmt: skip
    nothing = next(
        r for r in with_value(sample(), "frontier", "largest_tokens", 0).records
        if r.case.id == record.case.id
    )  # fmt: skip
    mine, theirs = (reproduce.Published(run=run, record=r) for r in (record, nothing))
    assert not agrees(theirs, mine)
    told = reproduce.judge(theirs, run.environment, record)
    assert told.verdict == "2048 instead of 0"


def test_a_time_of_nothing_has_no_rate() -> None:
    planted = with_value(sample(), "workload", "latency", 0.0)
    rows, _ = frames((planted,), catalogue())
    derived = {"throughput", "flop_rate", "efficiency"}
    assert "latency" in set(rows["metric"])
    assert not derived & set(rows["metric"])
    good, _ = frames((sample(),), catalogue())
    assert derived <= set(good["metric"])


def test_runs_with_a_time_of_nothing_are_compared(tmp_path: Path) -> None:
    first = write_sample(tmp_path, variants=("softmax",))
    stored = with_value(read_run(first), "workload", "latency", 0.0)
    second = write_run(tmp_path, stored.run, stored.files)
    words = compare_runs(tmp_path, first.name, second.name)
    assert "cases in common" in words


def test_a_layout_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.submit import _lay_out  # pyright: ignore[reportPrivateUsage]

    folder = write_sample(tmp_path)
    path = folder / "run.json"
    compact = strict_json.canonical(parse(path.read_bytes())).encode()
    path.write_bytes(compact)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            _lay_out(path)
    assert path.read_bytes() == compact
    assert [p.name for p in folder.parent.iterdir()] == [folder.name], "nothing is left behind"
    assert _lay_out(path)
    assert path.read_bytes() == strict_json.pretty(parse(compact)).encode()
    assert path.stat().st_mode & 0o777 == (folder / "softmax.json").stat().st_mode & 0o777
