"""What an executor must declare, and how the executors are found: one file each in bench/executors.

An executor decides where and when the visits of a plan run. The cases and the records are the same
with every one of them.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from attention_impls.registry import names_in, unknown
from bench.journal import Journal
from bench.model import Case, DeviceKind, Outcome, Plan
from bench.task import Epoch

_FOLDER = Path(__file__).parent / "executors"


class Progress(Protocol):
    """Somebody who is told what happens while a plan runs."""

    def started(self, case: Case, done: int, total: int) -> None:
        """A visit begins; `done` of `total` visits of the plan are settled."""
        ...

    def finished(self, case: Case, outcome: Outcome) -> None:
        """The visit of `case` ended."""
        ...

    def trained(self, epoch: Epoch) -> None:
        """The running visit is a training, and this is how far it is."""
        ...

    def note(self, text: str) -> None:
        """Something a person should know, e.g. that the machine is busy."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """One way to run the visits of a plan: the last object of its file."""

    name: str
    """Identifier; equals the file's name."""
    title: str
    """Name for people."""
    run: Callable[[Plan, Journal, DeviceKind, Progress], None]
    """Run every visit that the journal does not hold yet; each is journalled when it ends."""


@cache
def executors() -> tuple[Executor, ...]:
    """Return every executor, sorted by name."""
    return tuple(executor(name) for name in names_in(_FOLDER))


@cache
def executor(name: str) -> Executor:
    """Return executor `name`.

    Raises:
        UnknownName: no such file.
        TypeError: the file has no `EXECUTOR` of that name.
    """
    known = names_in(_FOLDER)
    if name not in known:
        raise unknown("executor", name, known)
    found = getattr(importlib.import_module(f"bench.executors.{name}"), "EXECUTOR", None)
    if not isinstance(found, Executor) or found.name != name:
        raise TypeError(f"bench/executors/{name}.py: EXECUTOR is missing or has another name")
    return found
