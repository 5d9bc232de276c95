"""What an executor must declare, and how the executors are found: one file each in bench/executors.

An executor finds devices and carries messages to them; it decides nothing else. Which visit comes
next, what is written, and what happens when a device is lost is the same for all: `bench/sweep.py`.
So the cases and the records are the same whichever executor ran them.
"""

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

from attention_impls.registry import names_in, unknown
from bench.journal_lines import Header
from bench.model import Case, Ceiling, DeviceKind, Outcome, Plan, Visit
from bench.schedule import Turn
from bench.task import Epoch

_FOLDER = Path(__file__).parent / "executors"


class PoolError(RuntimeError):
    """No device can be had, or all were lost; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One device of one node, or several that train together: makes one visit at a time.

    One that comes back is another slot.
    """

    node: str
    """Name of the node, for people and the journal; never published."""
    device: str
    """Which of the node's devices: `gpu 3`, `gpus 0-3`, `cpus 4-7`."""
    life: int = 1
    """How often this device has joined, so that late answers of a lost slot are told apart."""

    @property
    def words(self) -> str:
        """`node, gpu 3`."""
        return f"{self.node}, {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A slot is ready: it has read its machine, measured its limits, and says which code it has."""

    slot: Slot
    header: Header
    making: Visit | None = None
    """What it was asked for by an earlier driver and still makes: Made or Lost will answer it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The visit that the slot was asked for ended."""

    slot: Slot
    outcome: Outcome
    wall_s: float
    """Since the end of the visit before, on this slot."""
    measured_s: float
    """Time inside measured calls."""
    foreign_load: float | None
    """CPUs of the slot kept busy by others meanwhile."""
    by: str | None = None
    """Words of the slot that made it for an earlier driver; None: `slot` itself did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The slot's limits, measured again at its end."""

    slot: Slot
    ceilings: tuple[Ceiling, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """The slot cannot be trusted now and made nothing; it is asked again later."""

    slot: Slot
    reason: str
    """Foreign processes on its GPU, throttling: a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The slot is gone; what it was asked for is made elsewhere. Nothing comes from it any more."""

    slot: Slot
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The slot's visit is a training, and this is how far it is."""

    slot: Slot
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Something a person should know."""

    text: str


Event = Joined | Made | Limits | Aside | Lost | Trained | Said


class Pool(Protocol):
    """The devices of one run. Leaving its context ends everything that it started."""

    def visit(self, slot: Slot, turn: Turn, checkpoints: Path, /) -> None:
        """Ask an idle slot to make a visit; does not wait. Answered by Made, Aside or Lost.

        Args:
            slot: one that has joined and is not lost.
            turn: what to make.
            checkpoints: folder for the states of unfinished trainings; used where the node sees it.
        """
        ...

    def measure(self, slot: Slot, /) -> None:
        """Ask an idle slot for its limits again; does not wait. Answered by Limits or Lost."""
        ...

    def release(self, slot: Slot, /) -> None:
        """Let go of an idle slot that is not needed any more."""
        ...

    def wait(self, timeout_s: float, /) -> tuple[Event, ...]:
        """Return what happened since the last call, after `timeout_s` at the latest.

        A pool may make the visit itself in here and take as long as that takes.
        """
        ...

    def awaited(self) -> tuple[str, ...]:
        """Kinds of devices that were asked for by name and of which no slot has joined so far."""
        ...

    def may_grow(self) -> bool:
        """Whether slots may still join without anybody asking for them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Commission:
    """What a pool is opened for."""

    plan: Plan
    device: DeviceKind
    threads: int | None
    """Threads of one slot; None: its CPUs."""
    only: str | None
    together: int = 1
    """Devices of one node that make a slot and train a network together."""
    resume: bool = False
    """Go on with an earlier run: what it left running can be taken over."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """What was given for the executor's own options, by name; flags are `true`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of the command line that belongs to an executor."""

    name: str
    """With hyphens, without the leading ones. Executors may share a name."""
    help: str
    """One sentence; names the default."""
    flag: bool = False
    """Takes no value."""


class Progress(Protocol):
    """Somebody who is told what happens while a plan runs."""

    def started(self, case: Case, done: int, total: int) -> None:
        """A visit begins; `done` of `total` visits of the plan are settled."""
        ...

    def finished(self, case: Case, outcome: Outcome) -> None:
        """The visit of `case` ended."""
        ...

    def trained(self, epoch: Epoch) -> None:
        """How far the training is that runs now; only told where there is one slot."""
        ...

    def slots(self, doing: Mapping[Slot, str]) -> None:
        """What every slot does now, in words; only told where there are several."""
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
    pool: Callable[[Commission, Progress], AbstractContextManager[Pool]]
    """Find devices. Raises PoolError where there are none, ValueError for a wrong option."""
    options: tuple[Option, ...] = ()
    """Options of its own on the command line."""


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
