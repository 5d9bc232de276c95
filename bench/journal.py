"""The record of a running plan: an append-only file of JSON lines, forced to disk line by line.

The first line is the header; each further line is one visit. `kill -9` costs at most the visit that
was running: its torn line is dropped when the file is opened again.
"""

import contextlib
import fcntl
import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass as noun

from attention_impls import registry
from bench.model import (
    Ceiling,
    Count,
    Environment,
    Instant,
    Name,
    NonNegative,
    Outcome,
    Plan,
    Sha256,
    TaskRun,
    TaskVersion,
    Text,
    Visit,
    Whole,
    canonical,
)
from bench.task import task

FORMAT = 3
"""Version of the journal's lines."""
_ARRIVAL = b'{"ceilings":'
"""How a line begins that is an arrival: keys are sorted."""
_STRICT = pydantic.ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
)


class JournalError(RuntimeError):
    """The journal cannot be written, read, or continued; the message says why and what to do."""


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class VariantSource:
    """Which state of a variant is measured."""

    revision: Count
    source_sha256: Sha256


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Header:
    """First line: what runs, where, with which code."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT
    plan: Plan
    environment: Environment
    ceilings: tuple[Ceiling, ...]
    created: Instant
    """Start of the run, UTC."""
    suite_version: Text
    commit: str | None
    dirty: bool
    only: Text | None
    variants: dict[Name, VariantSource]
    """Every variant of the plan."""
    tasks: dict[Name, TaskVersion]
    """Every task of the plan."""
    variant_files: tuple[str, ...]
    """Variants from outside the tree, as paths of this machine; not published."""


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Attempt:
    """A visit that was begun and lost with its slot: no fault of the case, made again elsewhere."""

    slot: str
    """Node and device, as in the entry."""
    reason: str
    """What happened to the slot."""


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Entry:
    """One visit and how it went."""

    case_id: str
    round: Whole
    repetition: Whole
    outcome: Outcome
    wall_s: NonNegative
    """From the end of the visit before to the end of this one."""
    measured_s: NonNegative
    """Time inside measured calls."""
    foreign_load: NonNegative | None
    """CPUs kept busy by others meanwhile; None where the visit was too short to tell."""
    slot: str | None = None
    """Node and device that made it; None where no device was needed. Not published."""
    attempts: tuple[Attempt, ...] = ()
    """Earlier attempts that were lost with their slots, in their order."""

    @property
    def visit(self) -> Visit:
        """The visit's key."""
        return Visit(self.case_id, self.round, self.repetition)


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Arrival:
    """A slot that took part, with its own measured limits."""

    ceilings: tuple[Ceiling, ...]
    slot: str
    """Node and device."""


def describe_variants(plan: Plan) -> dict[str, VariantSource]:
    """Revision and source digest of every variant that `plan` names."""
    cases = (*plan.cases, *plan.noise_pairs, plan.anchor)
    return {
        name: VariantSource(
            revision=registry.load(name).revision,
            source_sha256=hashlib.sha256(registry.source_file(name).read_bytes()).hexdigest(),
        )
        for name in sorted({case.variant for case in cases})
    }


def describe_tasks(plan: Plan) -> dict[str, TaskVersion]:
    """Revision and recipe digest of every task that `plan` trains."""
    stimuli = [case.stimulus for case in plan.cases]
    trained = sorted({one.task for one in stimuli if isinstance(one, TaskRun)})
    return {
        name: TaskVersion(revision=task(name).revision, recipe_sha256=task(name).recipe_sha256)
        for name in trained
    }


class Journal:
    """An open journal. One process writes it at a time."""

    def __init__(
        self,
        path: Path,
        stream: BinaryIO,
        header: Header,
        entries: list[Entry],
        arrivals: list[Arrival],
    ) -> None:
        self.path = path
        self.header = header
        self._stream = stream
        self._entries = entries
        self._arrivals = arrivals
        self._digest: str | None = None

    @classmethod
    def create(cls, path: Path, header: Header) -> "Journal":
        """Start a journal.

        Raises:
            JournalError: the file exists, or the disk is full.
        """
        try:
            stream = path.open("x+b", buffering=0)
        except FileExistsError:
            raise JournalError(f"{path} exists: resume it, or choose another name") from None
        _lock(path, stream)
        journal = cls(path, stream, header, [], [])
        try:
            journal._write(canonical(header))
        except JournalError:
            journal.close()
            path.unlink()
            raise
        _sync_folder(path.parent)
        return journal

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Open an existing journal to read it and to go on; a torn last line is cut off.

        Raises:
            JournalError: not a journal, or a line other than the last is damaged.
        """
        try:
            stream = path.open("r+b", buffering=0)
        except FileNotFoundError:
            raise JournalError(f"{path}: no such journal") from None
        try:
            _lock(path, stream)
            data = stream.readall()
            whole, _, _torn = data.rpartition(b"\n")
            lines = whole.split(b"\n") if whole else []
            if not lines:
                raise JournalError(f"{path}: has no header; nothing was measured, delete it")
            header = _line(path, 1, lines[0], Header)
            entries: list[Entry] = []
            arrivals: list[Arrival] = []
            for n, line in enumerate(lines[1:], start=2):
                if line.startswith(_ARRIVAL):
                    arrivals.append(_line(path, n, line, Arrival))
                else:
                    entries.append(_line(path, n, line, Entry))
            _refuse_twice(path, entries)
            stream.truncate(len(whole) + 1)
            stream.seek(0, os.SEEK_END)
        except BaseException:
            stream.close()
            raise
        return cls(path, stream, header, entries, arrivals)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every visit, in the order in which they ended."""
        return tuple(self._entries)

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """Every measurement of limits since the header's, in order."""
        return tuple(self._arrivals)

    @property
    def outcomes(self) -> dict[Visit, Outcome]:
        """Every visit's outcome."""
        return {entry.visit: entry.outcome for entry in self._entries}

    def append(self, entry: Entry) -> None:
        """Add one visit; it is on the disk when this returns.

        Raises:
            JournalError: the disk is full or failing; no part of the line stays in the file.
        """
        self._write(canonical(entry))
        self._entries.append(entry)

    def arrived(self, arrival: Arrival) -> None:
        """Add the limits that a slot measured; they are on the disk when this returns.

        Raises:
            JournalError: the disk is full or failing.
        """
        self._write(canonical(arrival))
        self._arrivals.append(arrival)

    def check_resumable(self, header: Header) -> None:
        """Refuse to go on with another plan, protocol, machine or code.

        Raises:
            JournalError: names everything that differs.
        """
        if self._digest is None:
            self._digest = self.header.plan.digest
        # plans are large: equal ones are compared in a fraction of the time a digest takes
        theirs = self._digest if header.plan == self.header.plan else header.plan.digest
        before, now = _identity(self.header, self._digest), _identity(header, theirs)
        different = [
            f"{name} was {before.get(name)}, is {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if different:
            raise JournalError(f"cannot be resumed: {'; '.join(different)}")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _write(self, line: str) -> None:
        data = line.encode() + b"\n"
        start = self._stream.tell()
        try:
            written = 0
            while written < len(data):
                written += self._stream.write(data[written:])
            os.fsync(self._stream.fileno())
        except OSError as failure:
            with contextlib.suppress(OSError):
                self._stream.truncate(start)
                self._stream.seek(start)
            raise JournalError(
                f"{self.path} cannot be written: {failure.strerror}; free space, then resume"
            ) from failure


def _identity(header: Header, plan_digest: str) -> dict[str, str]:
    """Everything that must not change between the halves of one run."""
    found = {
        "plan": f"{header.plan.name} {plan_digest[:12]}",
        "hardware": header.environment.hardware_id,
        "device": header.environment.device,
        "threads": str(header.environment.threads),
        "python": header.environment.python,
        "torch": header.environment.torch,
        "suite version": header.suite_version,
        "commit": str(header.commit),
    }
    protocol: dict[str, Any] = asdict(header.plan.protocol)  # pyright: ignore[reportArgumentType]
    found |= {f"protocol.{name}": str(value) for name, value in protocol.items()}
    for name, source in header.variants.items():
        found[f"variant {name}"] = f"revision {source.revision} {source.source_sha256[:12]}"
    for name, version in header.tasks.items():
        found[f"task {name}"] = f"revision {version.revision} {version.recipe_sha256}"
    return found


def _line(path: Path, number: int, line: bytes, type_: Any) -> Any:
    try:
        return pydantic.TypeAdapter(type_).validate_json(line)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        found = f"damaged at {where or 'its start'}: {first['msg']}"
        raise JournalError(f"{path}:{number}: {found}") from None


def _refuse_twice(path: Path, entries: list[Entry]) -> None:
    seen: set[Visit] = set()
    for entry in entries:
        if entry.visit in seen:
            raise JournalError(f"{path}: {entry.case_id}, round {entry.round} is there twice")
        seen.add(entry.visit)


def _lock(path: Path, stream: BinaryIO) -> None:
    """Keep other launchers out for as long as the file is open here."""
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"{path} is being written by another process: wait for it") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
