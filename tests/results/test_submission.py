"""Writing and reading runs: whole or not at all, accepted or refused with path and reason."""

import errno
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sample_run import sample_header, sample_records, write_sample

from bench import strict_json, submission, upgrades
from bench.model import SCHEMA, Measured, Ok
from bench.submission import RunExistsError, read_results, read_run, rounded, write_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "results"


def reasons(root: Path) -> dict[str, str]:
    return {refusal.path: refusal.reason for refusal in read_results(root)[1]}


def test_round_trip_keeps_everything(root: Path) -> None:
    folder = write_sample(root)
    (stored,), refusals = read_results(root)
    assert refusals == ()
    header, files = submission.identified(sample_header(), sample_records())
    assert stored.run == header
    assert stored.files == files
    assert folder == root / header.environment.hardware_id / header.run_id


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_sample(tmp_path / name) for name in "ab")
    assert first.name == second.name
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_changed_sample_changes_the_run_id(root: Path) -> None:
    files = sample_records()
    ok = next(r for r in files[0].records if isinstance(r.outcome, Ok))
    (measured, *others) = [m for m in ok.outcome.measurements if isinstance(m, Measured)]
    faster = replace(measured, rounds=((0.5 * measured.rounds[0][0],),))
    changed = replace(ok, outcome=replace(ok.outcome, measurements=(faster, *others)))
    records = tuple(changed if r is ok else r for r in files[0].records)
    one = submission.identified(sample_header(), files)[0].run_id
    two = submission.identified(sample_header(), (replace(files[0], records=records), *files[1:]))
    assert one != two[0].run_id


def test_runs_are_never_overwritten(root: Path) -> None:
    write_sample(root)
    with pytest.raises(RunExistsError, match="never overwritten"):
        write_sample(root)


def test_a_run_without_records_is_not_written(root: Path) -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        write_run(root, sample_header(), [])


def test_one_file_a_variant(root: Path) -> None:
    file = sample_records(("softmax",))[0]
    with pytest.raises(ValueError, match="one file a variant"):
        write_run(root, sample_header(), [file, file])


def test_full_disk_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(root)
    before = sorted(root.rglob("*"))
    real, calls = os.fsync, iter(range(100))

    def full(handle: int) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_sample(root, created="2026-02-02T03:04:05Z")
    assert sorted(root.rglob("*")) == before


def test_a_real_write_failure_leaves_nothing(root: Path) -> None:
    root.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_sample(root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in root.rglob("*") if path.is_file()] == []
    write_sample(root)
    assert reasons(root) == {}


def test_a_write_that_was_killed_is_refused_not_read(root: Path) -> None:
    folder = write_sample(root)
    shutil.copytree(folder, folder.parent / ".unfinished-x")
    assert "cut off" in reasons(root)["sample-cpu/.unfinished-x"]
    assert len(read_results(root)[0]) == 1


def test_samples_are_rounded_and_counts_are_not() -> None:
    assert rounded(0.123456789) == 0.12346
    assert rounded(123456789) == 123456789
    assert rounded(123456789.0) == 123456789.0


def test_file_reads_well(root: Path) -> None:
    text = (write_sample(root) / "softmax.json").read_text()
    assert max(map(len, text.splitlines())) < 300
    assert text == strict_json.pretty(json.loads(text))


# Refusals: each plants one fault in a good folder -------------------------------------------------


def test_every_planted_fault_is_refused_with_its_path(root: Path) -> None:
    good = write_sample(root)
    at = f"sample-cpu/{good.name}"
    faults = {
        "missing header": (lambda f: (f / "run.json").unlink(), at, "run.json is missing"),
        "missing file": (
            lambda f: (f / "inline.json").unlink(), f"{at}/run.json", "lists 'inline.json'",
        ),
        "extra file": (
            lambda f: (f / "extra.json").write_text("{}"), f"{at}/extra.json", "not listed",
        ),
        "wrong suffix": (lambda f: (f / "notes.txt").write_text(""), f"{at}/notes.txt", "name"),
        "upper case": (lambda f: (f / "Soft.json").write_text(""), f"{at}/Soft.json", "name"),
        "changed": (
            lambda f: _edit(f / "inline.json", '"forward"', '"forward" '), f"{at}/inline.json",
            "sha256 differs",
        ),
        "header edited": (
            lambda f: _edit(f / "run.json", '"busy": false', '"busy": true'), f"{at}/run.json",
            "the contents give",
        ),
        "executable": (
            lambda f: (f / "run.json").chmod(0o755), f"{at}/run.json", "is executable",
        ),
        "link": (_link, f"{at}/run.json", "not a plain file"),
        "folder inside": (lambda f: (f / "more").mkdir(), f"{at}/more", "not a plain file"),
        "newer schema": (
            lambda f: _edit(f / "run.json", '"schema": 2', '"schema": 3'), f"{at}/run.json",
            "update attnbench",
        ),
        "schema text": (
            lambda f: _edit(f / "run.json", '"schema": 2', '"schema": "2"'), f"{at}/run.json",
            "must be a whole number",
        ),
        "unknown field": (
            lambda f: _edit(f / "run.json", '"dirty"', '"dirtier"'), f"{at}/run.json", "dirty",
        ),
        "huge": (
            lambda f: os.truncate(f / "run.json", strict_json.LARGEST_FILE_BYTES + 1),
            f"{at}/run.json", "allowed",
        ),
        "array": (lambda f: (f / "run.json").write_text("[]"), f"{at}/run.json", "must be an obj"),
        "many files": (
            lambda f: [(f / f"v{n}.json").write_text("{}") for n in range(500)], at, "504 files",
        ),
    }  # fmt: skip
    for name, (plant, path, reason) in faults.items():
        shutil.rmtree(root)
        assert write_sample(root) == good
        plant(good)
        found = reasons(root)
        assert list(found) == [path], (name, found)
        assert reason in found[path], (name, found)
        assert read_results(root)[0] == (), name


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _link(folder: Path) -> None:
    path = folder / "run.json"
    copy = folder.parent.parent.parent / "elsewhere.json"
    shutil.move(path, copy)
    path.symlink_to(copy)


@pytest.mark.parametrize("level", ["machine", "run"])
def test_a_renamed_folder_is_refused(root: Path, level: str) -> None:
    folder = write_sample(root)
    if level == "run":
        folder.rename(folder.with_name("20260102t030405z-0000000000"))
    else:
        folder.parent.rename(root / "another-cpu")
    ((path, reason),) = reasons(root).items()
    assert path.endswith("run.json")
    assert "is named" in reason


def test_files_and_links_beside_folders_are_refused(root: Path) -> None:
    folder = write_sample(root)
    (root / "stray.json").write_text("{}")
    (root / "sample-cpu" / "stray.json").write_text("{}")
    (root / "README.md").write_text("read me")
    (root / "linked").symlink_to(folder.parent, target_is_directory=True)
    assert sorted(reasons(root)) == ["linked", "sample-cpu/stray.json", "stray.json"]


def test_a_variant_file_must_speak_of_its_variant(root: Path) -> None:
    files = sample_records(("inline", "softmax"))
    swapped = replace(files[0], records=files[1].records)
    folder = write_run(root, sample_header(), [swapped])
    assert "case.variant is softmax, not inline" in reasons(root)[
        f"sample-cpu/{folder.name}/inline.json"
    ]  # fmt: skip


def test_a_case_cannot_occur_twice(root: Path) -> None:
    (file,) = sample_records(("softmax",))
    folder = write_run(root, sample_header(), [replace(file, records=file.records[:1] * 2)])
    assert "one case occurs twice" in reasons(root)[f"sample-cpu/{folder.name}/softmax.json"]


def test_no_results_is_not_an_error(root: Path) -> None:
    assert read_results(root) == ((), ())


# Upgrades -----------------------------------------------------------------------------------------


def test_an_older_schema_is_upgraded_in_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sample(root)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def to_next(document: dict[str, object]) -> dict[str, object]:
        document = {**document, "schema": SCHEMA}  # the nouns of this test still say so
        if "commit" in document:
            document["suite_version"] = "upgraded"
        return document

    monkeypatch.setattr(upgrades, "SCHEMA", SCHEMA + 1)
    with pytest.raises(KeyError):
        read_results(root)
    monkeypatch.setitem(upgrades.UPGRADES, SCHEMA, to_next)
    (stored,), refusals = read_results(root)
    assert refusals == ()
    assert stored.run.suite_version == "upgraded"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_every_older_schema_has_an_upgrade() -> None:
    assert sorted(upgrades.UPGRADES) == list(range(1, SCHEMA))


def test_reading_one_run_says_which_file(root: Path) -> None:
    folder = write_sample(root)
    (folder / "softmax.json").write_text("{")
    with pytest.raises(submission.RefusedError, match="not JSON") as caught:
        read_run(folder)
    assert caught.value.path == folder / "softmax.json"
