"""Runs the visits on the devices of this machine: one visit a device at a time.

One device is served by this process. Several are served by a process each, which sees only its GPU
and runs only on its CPUs.
"""

import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bench import load
from bench.description import described
from bench.devices import Device, devices, in_groups
from bench.devices_together import together_of
from bench.executor import (
    Commission,
    Event,
    Executor,
    Joined,
    Limits,
    Lost,
    Made,
    Option,
    Progress,
    Said,
    Slot,
)
from bench.gpu_health import complaint
from bench.journal import Journal
from bench.journal_lines import Header
from bench.launch import Workers, measure_machine
from bench.model import DeviceKind, Plan
from bench.schedule import Turn
from bench.slot import limits_request, open_request, visit_request
from bench.slot_process import SlotProcess
from bench.sweep import Sweep
from bench.visitor import Visitor

_LOOK_S = 0.5


def run(
    plan: Plan,
    journal: Journal,
    device: DeviceKind,
    progress: Progress,
    *,
    limits_again: bool = False,
) -> None:
    """Make every visit that the journal does not hold yet, on one device.

    Args:
        plan: what is run.
        journal: where visits are written.
        device: kind of the device.
        progress: told how far it is.
        limits_again: the machine's limits are measured once more at the end.

    Raises:
        JournalError: the disk is full.
        LaunchError: workers cannot be started.
        KeyboardInterrupt: after the running worker was killed; the journal can be resumed.
    """
    environment = journal.header.environment
    commission = Commission(
        plan=plan,
        device=device,
        threads=environment.threads,
        only=None,
        together=together_of(environment.settings),
    )
    sweep = Sweep(plan, device, lambda _header: journal, progress, limits_again=limits_again)
    with Alone(commission, progress, journal.header) as pool:
        sweep.go(pool)


class Alone:
    """One slot, served by this process."""

    def __init__(
        self, commission: Commission, progress: Progress, header: Header | None = None
    ) -> None:
        """Make one; without a `header` the machine is read and measured first."""
        self._commission = commission
        self._device: DeviceKind = commission.device
        self._threads = commission.threads or load.own_cpus()
        self._slot = Slot(node=socket.gethostname(), device=self._device)
        self._progress = progress
        self._header = header
        self._began = time.monotonic()
        self._visitor: Visitor | None = None
        self._asked: tuple[Turn, Path] | None = None
        self._measure = False

    def __enter__(self) -> "Alone":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._visitor is not None:
            self._visitor.__exit__(kind, error, trace)

    def visit(self, _slot: Slot, turn: Turn, checkpoints: Path) -> None:
        """Remember what to make in `wait`."""
        self._asked = (turn, checkpoints)

    def measure(self, _slot: Slot) -> None:
        """Remember to measure in `wait`."""
        self._measure = True

    def release(self, _slot: Slot) -> None:
        """Nothing is held that leaving the context does not end."""

    def wait(self, _timeout_s: float) -> tuple[Event, ...]:
        """Make the visit."""
        if self._visitor is None:
            return (self._opened(),)
        if self._asked is not None:
            (turn, checkpoints), self._asked = self._asked, None
            visited = self._visitor.visit(
                turn.case,
                turn.visit.round,
                turn.group,
                self._commission.plan.protocol,
                checkpoints,
            )
            made = Made(
                slot=self._slot,
                outcome=visited.outcome,
                wall_s=visited.wall_s,
                measured_s=visited.measured_s,
                foreign_load=visited.foreign_load,
            )
            return (made,)
        if self._measure:
            self._measure = False
            self._progress.note("measuring the machine's own limits again")
            together = self._commission.together
            _, ceilings = measure_machine(self._device, self._threads, together)
            return (Limits(slot=self._slot, ceilings=ceilings),)
        return ()

    def awaited(self) -> tuple[str, ...]:
        """The one device is there."""
        return ()

    def may_grow(self) -> bool:
        """Only before the device has joined."""
        return self._visitor is None

    def _opened(self) -> Joined:
        given, header = self._commission, self._header
        if header is None:
            self._progress.note("measuring the machine's own limits")
            header = described(given.plan, self._device, self._threads, given.only, given.together)
            self._began = time.monotonic()
        foreign = load.foreign_load(_LOOK_S)
        if foreign > load.BUSY_CPUS:
            self._progress.note(
                f"busy machine: others use {foreign:.1f} CPUs, so the numbers will be marked; "
                "for clean ones stop other programs and start again"
            )
        wrong = complaint(given.together) if self._device == "cuda" else None
        if wrong is not None:
            self._progress.note(
                f"the GPU is not fit to be measured, and there is no other: {wrong}"
            )
        report = self._progress.trained
        workers = Workers(self._device, self._threads, None, report, given.together)
        self._visitor = Visitor(workers, self._began).__enter__()
        return Joined(slot=self._slot, header=header)


class Several:
    """Several devices of this machine, a process each."""

    def __init__(
        self, commission: Commission, chosen: Sequence[Device], progress: Progress
    ) -> None:
        """Make the slots of `chosen`."""
        self._commission = commission
        self._devices = tuple(chosen)
        self._progress = progress
        self._slots: dict[Slot, SlotProcess] = {}
        self._selector = selectors.DefaultSelector()
        self._told: deque[Event] = deque()

    def __enter__(self) -> "Several":
        given = self._commission
        node = socket.gethostname()
        if not all(one.cpus for one in self._devices):
            self._told.append(
                Said(text="fewer CPUs than devices: none is pinned, and they disturb each other")
            )
        self._progress.note(f"starting {len(self._devices)} devices and measuring their limits")
        threads = given.threads or min((len(one.cpus) for one in self._devices), default=1) or 1
        request = open_request(given.plan, given.device, threads, given.only, given.together)
        try:
            for one in self._devices:
                visible = {} if one.visible is None else {"CUDA_VISIBLE_DEVICES": one.visible}
                self.add(SlotProcess(Slot(node=node, device=one.words), visible, one.cpus))
            # a pipe does not hold a large plan: it is read once a process has imported torch
            for process in self._slots.values():
                process.ask(request)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for slot in list(self._slots):
            self._close(slot)
        self._selector.close()

    def add(self, process: SlotProcess) -> None:
        """Take in one more slot."""
        self._slots[process.slot] = process
        self._selector.register(process, selectors.EVENT_READ)

    def visit(self, slot: Slot, turn: Turn, checkpoints: Path) -> None:
        """Send the request."""
        self._slots[slot].ask(visit_request(turn, checkpoints))

    def measure(self, slot: Slot) -> None:
        """Send the request."""
        self._slots[slot].ask(limits_request())

    def release(self, slot: Slot) -> None:
        """End the slot's process."""
        self._close(slot)

    def wait(self, timeout_s: float) -> tuple[Event, ...]:
        """Read what the slots said."""
        if not self._told and self._slots:
            for key, _ in self._selector.select(timeout_s):
                process = key.fileobj
                if isinstance(process, SlotProcess):
                    self._told.extend(process.events())
        found = tuple(self._told)
        self._told.clear()
        for event in found:
            if isinstance(event, Lost):
                self._close(event.slot)
        return found

    def awaited(self) -> tuple[str, ...]:
        """Kinds are not asked for by name."""
        return ()

    def may_grow(self) -> bool:
        """A slot whose process lives may join yet."""
        return bool(self._slots)

    def processes(self) -> dict[Slot, int]:
        """The process of each slot."""
        return {slot: process.pid for slot, process in self._slots.items()}

    def _close(self, slot: Slot) -> None:
        process = self._slots.pop(slot, None)
        if process is not None:
            self._selector.unregister(process)
            process.close()


def pool(commission: Commission, progress: Progress) -> "Alone | Several":
    """Find the devices of this machine."""
    asked, together = commission.options.get("devices"), commission.together
    chosen = devices(commission.device, asked, progress.note)
    if commission.device == "cuda":
        chosen = in_groups(chosen, together)
    elif any((len(one.cpus) or load.own_cpus()) < together for one in chosen):
        raise ValueError(
            f"--together {together}: fewer CPUs than processes; give fewer, or split the CPUs into "
            "fewer parts"
        )
    if len(chosen) == 1 and asked is None:
        return Alone(commission, progress)
    return Several(commission, chosen, progress)


EXECUTOR = Executor(
    name="local",
    title="the devices of this machine, one visit a device at a time",
    pool=pool,
    options=(
        Option(
            name="devices",
            help="GPUs to use, such as 0,1,2 (default: all); on cpu, into how many parts the CPUs "
            "are split (default: 1).",
        ),
    ),
)
