"""The record of a running plan: an append-only file of JSON lines, forced to disk line by line.

The first line is the header; each further line is one visit or one arrival. `kill -9` costs at most
the visit that was running: its torn line is dropped when the file is opened again.
"""

import contextlib
import fcntl
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import pydantic

from bench.journal_lines import Arrival, Entry, Header
from bench.model import Outcome, Visit, canonical

_ARRIVAL = b'{"ceilings":'
"""How a line begins that is an arrival: keys are sorted."""


class JournalError(RuntimeError):
    """The journal cannot be written, read, or continued; the message says why and what to do."""


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
