"""The only reader and writer of results/.

A run is the folder `<hardware_id>/<run_id>/` with `run.json` and one file a variant. Its last ten
digits are a digest of all that is in it, and `run.json` holds the sha256 of every other file: a
changed leaf anywhere is found. Files are written once, whole or not at all, and never changed.
"""

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import strict_json
from bench.model import (
    Measured,
    Ok,
    Record,
    Run,
    VariantRecords,
    adapter,
    to_json,
)
from bench.upgrades import SchemaError, upgraded

MOST_BYTES = 64 * 2**20
"""Of all files of a run, which are held at once; the largest plan stays below a tenth of this."""
MOST_FILES = 400
"""Files of one run."""
SIGNIFICANT_DIGITS = 5
"""Of samples that are not whole numbers; no clock here repeats itself to one part in 100,000."""
UNFINISHED = ".unfinished-"
"""Start of the names of folders that are being written."""
NOT_RUNS = ("reported", "analyses")
"""Folders of results/ that hold something else."""


class RunExistsError(FileExistsError):
    """The run that was to be written is in results/ already; runs are never overwritten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """One accepted run."""

    run: Run
    files: tuple[VariantRecords, ...]
    """Sorted by variant."""
    folder: Path

    @property
    def records(self) -> tuple[Record, ...]:
        """All records of the run."""
        return tuple(record for file in self.files for record in file.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A file or folder that was not accepted, and why."""

    path: str
    """Relative to the results folder."""
    reason: str


# Writing ------------------------------------------------------------------------------------------


def write_run(root: Path, header: Run, files: Iterable[VariantRecords]) -> Path:
    """Write one run and return its folder.

    Args:
        root: the results folder; made if it is not there.
        header: everything about the run; its `run_id` and `files` are ignored and computed here.
        files: the records, one object a variant; their `run_id` is ignored too.

    Raises:
        RunExistsError: the very same run has been written before.
        ValueError: no records, or two files for one variant.
        OSError: the disk is full or not writable; nothing is left behind.
    """
    header, rounded = identified(header, files)
    texts = {f"{file.variant}.json": strict_json.pretty(to_json(file)) for file in rounded}
    texts["run.json"] = strict_json.pretty(to_json(header))
    folder = root / header.environment.hardware_id / header.run_id
    if folder.exists():
        raise RunExistsError(f"{folder} is there already; runs are never overwritten")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
    try:
        for name, text in texts.items():
            _write_durably(unfinished / name, text.encode())
        unfinished.chmod(0o755)
        _sync(unfinished)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _sync(folder.parent)
    return folder


def identified(
    header: Run, files: Iterable[VariantRecords]
) -> tuple[Run, tuple[VariantRecords, ...]]:
    """Return the run as it will be stored: samples rounded, records sorted, run_id and sha256 set.

    Raises:
        ValueError: no records, or two files for one variant.
    """
    sorted_files = sorted((_rounded(file) for file in files), key=lambda file: file.variant)
    variants = [file.variant for file in sorted_files]
    if not variants:
        raise ValueError("a run without records is not written: nothing was measured")
    if len(set(variants)) != len(variants):
        raise ValueError(f"one file a variant: got {', '.join(variants)}")
    documents = {file.variant: to_json(file) for file in sorted_files}
    run_id = content_id(to_json(header), documents)
    named = tuple(replace(file, run_id=run_id) for file in sorted_files)
    digests = {
        f"{file.variant}.json": _sha256(strict_json.pretty(to_json(file)).encode())
        for file in named
    }
    return replace(header, run_id=run_id, files=digests), named


def content_id(run: dict[str, Any], files: dict[str, dict[str, Any]]) -> str:
    """Return the run_id that belongs to these plain JSON documents.

    It is the start time and ten hex digits of the sha256 over everything except the run_ids and
    the sha256 of the files, which follow from the rest.
    """
    body = {
        "run": {key: value for key, value in run.items() if key not in ("run_id", "files")},
        "files": {
            name: {key: value for key, value in file.items() if key != "run_id"}
            for name, file in files.items()
        },
    }
    started = re.sub(r"[^0-9a-z]", "", str(run.get("created")).lower())
    return f"{started}-{_sha256(strict_json.canonical(body).encode())[:10]}"


def _rounded(file: VariantRecords) -> VariantRecords:
    records = sorted((_rounded_record(r) for r in file.records), key=lambda r: r.case.id)
    return replace(file, records=tuple(records))


def _rounded_record(record: Record) -> Record:
    if not isinstance(record.outcome, Ok):
        return record
    measurements = tuple(
        replace(m, rounds=tuple(tuple(map(rounded, samples)) for samples in m.rounds))
        if isinstance(m, Measured)
        else m
        for m in record.outcome.measurements
    )
    return replace(record, outcome=replace(record.outcome, measurements=measurements))


def rounded(value: float) -> float:
    """Round a sample to the digits that mean something; whole numbers stay exact."""
    if isinstance(value, int) or value.is_integer():
        return value
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Reading ------------------------------------------------------------------------------------------


class RefusedError(ValueError):
    """The file at `path` is not accepted, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def read_results(root: Path) -> tuple[tuple[StoredRun, ...], tuple[Refusal, ...]]:
    """Read every run below `root`: each is accepted whole or refused with path and reason.

    Returns:
        The accepted runs, oldest first, and the refusals; nothing is skipped silently.
    """
    runs: dict[str, StoredRun] = {}
    refusals: list[Refusal] = []
    for machine in _folders(root, root, refusals, skip=NOT_RUNS):
        for folder in _folders(root, machine, refusals):
            try:
                read = read_run(folder)
                if (first := runs.setdefault(read.run.run_id, read)) is not read:
                    told = f"run_id is that of {_inside(root, first.folder)}, too; measure again"
                    raise RefusedError(folder / "run.json", told)
            except RefusedError as bad:
                refusals.append(Refusal(path=_inside(root, bad.path), reason=bad.reason))
            except OSError as gone:
                reason = f"cannot be read: {gone.strerror}"
                refusals.append(Refusal(path=_inside(root, folder), reason=reason))
    return (
        tuple(sorted(runs.values(), key=lambda stored: (stored.run.created, stored.run.run_id))),
        tuple(sorted(refusals, key=lambda refusal: (refusal.path, refusal.reason))),
    )


def read_run(folder: Path) -> StoredRun:
    """Read the run in `folder`, whose name and parent must agree with its contents.

    Raises:
        RefusedError: naming the file and the reason.
    """
    if folder.name.startswith(UNFINISHED):
        raise RefusedError(
            folder,
            "is being written, or was left by a write that was cut off: if no run ends now, remove "
            "it",
        )
    documents = {path.name: _document(path) for path in _members(folder)}
    if "run.json" not in documents:
        raise RefusedError(folder, "run.json is missing")
    names = sorted(set(documents) - {"run.json"})
    run_path = folder / "run.json"
    run: Run = _validated(Run, documents["run.json"][0], run_path)
    _check_names(folder, run, names)
    for name in names:
        if run.files[name] != _sha256(documents[name][1]):
            raise RefusedError(
                folder / name, "sha256 differs from the one in run.json: the file changed"
            )
    files = tuple(_variant_file(folder / name, documents[name][0], run) for name in names)
    expected = content_id(
        documents["run.json"][0],
        {name.removesuffix(".json"): documents[name][0] for name in names},
    )
    if run.run_id != expected:
        raise RefusedError(
            run_path,
            f"run_id is {run.run_id}, the contents give {expected}: the run was edited; "
            "results are measured again, never changed",
        )
    return StoredRun(run=run, files=files, folder=folder)


def _check_names(folder: Path, run: Run, names: Sequence[str]) -> None:
    run_path = folder / "run.json"
    if folder.name != run.run_id:
        raise RefusedError(run_path, f"run_id is {run.run_id}, the folder is named {folder.name}")
    if folder.parent.name != run.environment.hardware_id:
        raise RefusedError(
            run_path,
            f"hardware_id is {run.environment.hardware_id}, the folder above is named "
            f"{folder.parent.name}",
        )
    for name in sorted(set(run.files) ^ set(names)):
        if name in names:
            raise RefusedError(folder / name, "is not listed in run.json")
        # a stranger's text, not a name of ours: it never becomes part of a path
        raise RefusedError(run_path, f"files lists {name[:100]!r}, which is not there")
    if not names:
        raise RefusedError(folder, "no variant file: a run holds at least one")


def _variant_file(path: Path, document: dict[str, Any], run: Run) -> VariantRecords:
    file: VariantRecords = _validated(VariantRecords, document, path)
    if path.name != f"{file.variant}.json":
        raise RefusedError(path, f"variant is {file.variant}, the file is named {path.name}")
    if file.run_id != run.run_id:
        raise RefusedError(path, f"run_id is {file.run_id}, run.json says {run.run_id}")
    ids = [record.case.id for record in file.records]
    if ids != sorted(set(ids)):
        raise RefusedError(path, "records are not sorted by case id, or one case occurs twice")
    for index, record in enumerate(file.records):
        if record.case.variant != file.variant:
            raise RefusedError(
                path, f"records.{index}.case.variant is {record.case.variant}, not {file.variant}"
            )
    return file


def _validated(type_: Any, document: dict[str, Any], path: Path) -> Any:
    try:
        return adapter(type_).validate_json(strict_json.canonical(upgraded(document)))
    except SchemaError as error:
        raise RefusedError(path, str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # keys of a stranger may be of any length
        where = ".".join(str(part)[:100] for part in first["loc"]) or "document"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise RefusedError(path, f"{where}: {first['msg'][:500]}{more}") from None


def _document(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        data = strict_json.read(path)
        document = strict_json.parse(data)
    except strict_json.StrictJsonError as error:
        raise RefusedError(path, str(error)) from None
    if not isinstance(document, dict):
        raise RefusedError(path, f"holds a {type(document).__name__}, must be an object")
    return document, data


def _members(folder: Path) -> list[Path]:
    members = sorted(folder.iterdir())
    if len(members) > MOST_FILES:
        raise RefusedError(folder, f"{len(members)} files, allowed {MOST_FILES}")
    for path in members:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise RefusedError(path, "is not a plain file; links and folders are not allowed here")
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.\-]{0,95}\.json", path.name):
            raise RefusedError(path, "name is not `<variant>.json` or `run.json` in lower case")
        if mode & 0o111:
            raise RefusedError(path, "is executable; results are data: chmod -x")
    size = sum(path.lstat().st_size for path in members)
    if size > MOST_BYTES:
        raise RefusedError(folder, f"{size:,} bytes, allowed {MOST_BYTES:,} for a run")
    return members


def _folders(
    root: Path, parent: Path, refusals: list[Refusal], skip: tuple[str, ...] = ()
) -> list[Path]:
    """Folders to read below `parent`; at the top plain files (README, schema) are not results."""
    found: list[Path] = []
    for path in sorted(parent.iterdir()) if parent.is_dir() else []:
        if path.is_symlink():
            refusals.append(Refusal(path=_inside(root, path), reason="is a link; copy the files"))
        elif path.is_dir() and path.name not in skip:
            found.append(path)
        elif not path.is_dir() and not (
            parent == root and path.is_file() and path.name in ("README.md", "schema.json")
        ):
            refusals.append(
                Refusal(path=_inside(root, path), reason="a file has no place at this level")
            )
    return found


def _inside(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
