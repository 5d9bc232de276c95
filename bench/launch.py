"""Workers as other processes: start, ask, wait, kill; every ending becomes an outcome.

On CPU each visit has a process of its own, forked from a server with torch imported. On CUDA, where
a context costs about a second, a process serves the visits of one group and is replaced after any
ending but Ok, and where a visit left it unusable. CUDA is never initialised in the launching
process.
"""

import contextlib
import json
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attention_impls import registry
from bench.model import (
    Case,
    Ceiling,
    Crashed,
    DeviceKind,
    Environment,
    Ok,
    Outcome,
    Protocol,
    TimedOut,
    from_json,
    to_json,
)
from bench.processes import START_S, End, ForkServer, LaunchError, Process, Spawned, bury
from bench.task import Epoch

_MACHINE_S = 120.0
_POLL_S = 0.5
_LAST_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Visited:
    """What came back from a visit."""

    outcome: Outcome
    measured_s: float
    """Time inside measured calls; 0 where the worker could not say."""
    cpu_s: float | None
    """CPU seconds of the worker and its children; None where they are not known."""
    spent: dict[str, float]
    """Seconds of each stage of the visit, as the worker saw them."""
    reusable: bool = False
    """Whether the worker can make another visit."""


@dataclass(slots=True)
class Workers:
    """The worker processes of one run; a context manager that leaves none behind."""

    device: DeviceKind
    threads: int
    checkpoints: Path | None = None
    """Folder for the states of unfinished trainings; None: none are kept."""
    report: Callable[[Epoch], None] | None = None
    """Told after every epoch of a training."""
    together: int = 1
    """Devices that train a network together."""
    _server: ForkServer | None = None
    _living: dict[str, Process] = field(default_factory=dict[str, Process])

    def __enter__(self) -> "Workers":
        """Start the fork server now, so that no visit pays for it."""
        if self.device == "cpu":
            self._server = ForkServer(self.threads)
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every worker and the fork server."""
        for group in list(self._living):
            self.dismiss(group)
        if self._server is not None:
            self._server.close()
            self._server = None

    @property
    def busy(self) -> bool:
        """Whether a worker of ours lives now."""
        return bool(self._living)

    def dismiss(self, group: str) -> None:
        """End the process that serves `group`, if there is one."""
        process = self._living.pop(group, None)
        if process is not None:
            bury(process)

    def visit(self, case: Case, round_: int, protocol: Protocol, group: str) -> Visited:
        """Run one visit and wait for it; whatever becomes of the worker is an outcome.

        Raises:
            LaunchError: no worker could be started.
        """
        request = {
            "kind": "visit",
            "case": to_json(case),
            "round": round_,
            "protocol": to_json(protocol),
            **self._common(),
        }
        process = self._alive(group) or self._start()
        before = process.cpu_s()
        try:
            answer, end = _ask(process, request, protocol.timeout_s, self.report)
            visited = _visited(answer, end, process, protocol.timeout_s)
        except BaseException:
            bury(process)
            raise
        kept = self.device == "cuda" and isinstance(visited.outcome, Ok) and visited.reusable
        if kept and process.end() is None:
            self._living[group] = process
            return replace(visited, cpu_s=process.cpu_s() - before)
        return replace(visited, cpu_s=bury(process).cpu_s)

    def machine(self) -> tuple[Environment, tuple[Ceiling, ...]]:
        """Read this machine and measure its limits, in a worker of its own.

        Raises:
            LaunchError: the worker failed; the message has its last words.
        """
        return _machine(self._start(), self.device, self.threads, self.together)

    def _alive(self, group: str) -> Process | None:
        """Take the process that serves `group`; one that died meanwhile is no fault of any case."""
        process = self._living.pop(group, None)
        if process is not None and process.end() is not None:
            bury(process)
            return None
        return process

    def _start(self) -> Process:
        if self.device == "cuda":
            return Spawned.start(self.threads)
        if self._server is None:
            raise LaunchError("workers are started within `with Workers(...)`")
        return self._server.fork()

    def _common(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "threads": self.threads,
            "together": self.together,
            "variant_files": [str(path) for path in registry.outside_files()],
            "checkpoints": None if self.checkpoints is None else str(self.checkpoints),
        }


def measure_machine(
    device: DeviceKind, threads: int, together: int = 1
) -> tuple[Environment, tuple[Ceiling, ...]]:
    """Read this machine and measure its limits, in a worker process of its own.

    Args:
        device: of which kind; the limits are those of the first.
        threads: of the worker.
        together: devices that train a network together.

    Raises:
        LaunchError: the worker failed; the message has its last words.
    """
    return _machine(Spawned.start(threads), device, threads, together)


def _machine(
    process: Process, device: DeviceKind, threads: int, together: int
) -> tuple[Environment, tuple[Ceiling, ...]]:
    request = {
        "kind": "machine",
        "device": device,
        "threads": threads,
        "together": together,
        "variant_files": [],
    }
    try:
        answer, _ = _ask(process, request, START_S + _MACHINE_S)
        if answer is None:
            process.log.drain()
            raise LaunchError(f"this machine could not be measured: {process.log.words()}")
        return (
            from_json(Environment, answer["environment"]),
            tuple(from_json(Ceiling, ceiling) for ceiling in answer["ceilings"]),
        )
    finally:
        bury(process)


def _ask(
    process: Process,
    request: dict[str, Any],
    timeout_s: float,
    report: Callable[[Epoch], None] | None = None,
) -> tuple[dict[str, Any] | None, End | None]:
    """Send `request`; return the answer, or None with how the process ended (None: time is up).

    What the process tells before its answer goes to `report`.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.channel.sendall(json.dumps(request).encode() + b"\n")
    answer = b""
    talking = True
    while (left := deadline - time.monotonic()) > 0:
        watched: list[Any] = process.descriptors()
        watched += [process.channel] if talking else []
        watched += [process.log.descriptor] if process.log.open else []
        select.select(watched, [], [], min(left, _POLL_S if talking else _LAST_POLL_S))
        process.log.drain()
        ended = process.end()  # before the channel is read, so that nothing said before is missed
        while talking and select.select([process.channel], [], [], 0)[0]:
            data = _received(process.channel)
            talking = bool(data)
            answer += data
            *lines, answer = answer.split(b"\n")
            for message in map(json.loads, lines):
                if "epoch" not in message:
                    return message, ended
                if report is not None:
                    report(Epoch(**message["epoch"]))
        if ended is not None:
            return None, ended
    return None, None


def _received(channel: socket.socket) -> bytes:
    try:
        return channel.recv(1 << 20)
    except ConnectionResetError:
        return b""


def _visited(
    answer: dict[str, Any] | None, end: End | None, process: Process, timeout_s: float
) -> Visited:
    if answer is not None:
        return Visited(
            outcome=from_json(Outcome, answer["outcome"]),
            measured_s=answer["measured_s"],
            cpu_s=None,
            spent=answer["spent"],
            reusable=answer["reusable"],
        )
    if end is None:
        return Visited(outcome=TimedOut(limit_s=timeout_s), measured_s=0.0, cpu_s=None, spent={})
    process.log.drain()
    return Visited(
        outcome=Crashed(exit_code=end.status, reason=_last_words(end.status, process.log.words())),
        measured_s=0.0,
        cpu_s=end.cpu_s,
        spent={},
    )


def _last_words(status: int, words: str) -> str:
    if status < 0:
        try:
            how = f"ended by {signal.Signals(-status).name}"
        except ValueError:
            how = f"ended by signal {-status}"
        if status == -signal.SIGKILL:
            how += ", which is how the system ends a process when memory runs out"
    else:
        how = f"exited with status {status} and no result"
    return f"{how}\n{words}" if words else how
