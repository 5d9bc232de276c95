"""Workers as other processes: start, ask, wait, kill; every ending becomes an outcome.

On CPU each visit has a process of its own, forked from a server with torch imported. On CUDA, where
a context costs about a second, a process serves the visits of one group and is replaced after any
ending but Ok. CUDA is never initialised in the launching process.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import psutil

from attention_impls import registry
from bench import failures
from bench.model import (
    Case,
    Ceiling,
    Crashed,
    DeviceKind,
    Environment,
    Ok,
    Outcome,
    TimedOut,
    from_json,
    to_json,
)
from bench.model import Protocol as MeasuringProtocol
from bench.task import Epoch
from bench.worker_variables import worker_variables

_ROOT = str(Path(__file__).parent.parent)
_LOG_TAIL_BYTES = 16 << 10
_START_S = 120.0
_MACHINE_S = 120.0
_LAST_WORDS_S = 2.0
_POLL_S = 0.5
_LAST_POLL_S = 0.01


class LaunchError(RuntimeError):
    """A worker process could not be started or did not answer as agreed: not the case's fault."""


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


@dataclass(frozen=True, slots=True)
class _End:
    """How a process ended."""

    status: int
    """Exit code, or minus the signal."""
    cpu_s: float | None


class _Process(Protocol):
    """A worker process: a private channel, a log, an end."""

    pid: int
    channel: socket.socket
    log: "_Log"

    def descriptors(self) -> list[int]:
        """What becomes readable when the process ends."""
        ...

    def end(self) -> _End | None:
        """How it ended; None while it runs. Does not wait."""
        ...

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        ...


@dataclass(slots=True)
class _Log:
    """The last kibibytes that a worker printed; more is read and dropped."""

    descriptor: int
    tail: bytes = b""
    open: bool = True

    def drain(self) -> None:
        """Read what is there without waiting."""
        while self.open:
            try:
                data = os.read(self.descriptor, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self.close()
                return
            self.tail = (self.tail + data)[-_LOG_TAIL_BYTES:]

    def close(self) -> None:
        """Stop listening."""
        if self.open:
            os.close(self.descriptor)
            self.open = False

    def words(self) -> str:
        """What can be published of the last lines."""
        return failures.published(self.tail.decode(errors="replace"))


class _Server:
    """Our end of the fork server."""

    def __init__(self, threads: int) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.forkserver", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=_variables(threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        self._buffer = b""
        try:
            ready = self.read(_START_S)
        except OSError:
            ready = None
        if ready is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_WORDS_S)
            self._process.kill()
            _, errors = self._process.communicate()
            raise LaunchError(
                f"the fork server did not start: {failures.published(errors.decode())}"
            )

    def fork(self) -> "_Forked":
        """Start a worker."""
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        os.set_blocking(read, False)
        try:
            socket.send_fds(self.control, [b"f"], [theirs.fileno(), write])
            answer = self.read(_START_S)
        finally:
            theirs.close()
            os.close(write)
        if answer is None:
            raise LaunchError("the fork server is gone")
        return _Forked(int(answer["pid"]), ours, _Log(read), self)

    def read(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the server's next message; None when it is gone or the time is up."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self.control], [], [], left)[0]:
                return None
            data = self.control.recv(1 << 12)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """End the server, and with it a worker that still runs."""
        self.control.close()
        try:
            self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


@dataclass(slots=True)
class _Forked:
    """A worker forked from the server."""

    pid: int
    channel: socket.socket
    log: _Log
    server: _Server
    _end: _End | None = None

    def descriptors(self) -> list[int]:
        """The server tells of the end."""
        return [self.server.control.fileno()]

    def end(self) -> _End | None:
        """How it ended, as the server saw it."""
        if self._end is None:
            message = self.server.read(0.0)
            if message is not None:
                self._end = _End(int(message["status"]), float(message["cpu_s"]))
        return self._end

    def cpu_s(self) -> float:
        """The server tells at the end; a forked worker starts from none."""
        return 0.0


@dataclass(slots=True)
class _Spawned:
    """A worker started anew, for CUDA and for questions about the machine."""

    pid: int
    channel: socket.socket
    log: _Log
    process: "subprocess.Popen[bytes]"

    @classmethod
    def start(cls, threads: int) -> "_Spawned":
        """Start a worker; it imports torch and waits."""
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        os.set_blocking(read, False)
        descriptors = (theirs.fileno(), write)
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", *map(str, descriptors)],
            pass_fds=descriptors,
            env=_variables(threads),
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            start_new_session=True,
        )
        theirs.close()
        os.close(write)
        return cls(process.pid, ours, _Log(read), process)

    def descriptors(self) -> list[int]:
        """Nothing but its channel's end tells of it."""
        return []

    def end(self) -> _End | None:
        """How it ended."""
        status = self.process.poll()
        return None if status is None else _End(status, None)

    def cpu_s(self) -> float:
        """As the system counts it, ended children included."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system + times.children_user + times.children_system


@dataclass(slots=True)
class Workers:
    """The worker processes of one run; a context manager that leaves none behind."""

    device: DeviceKind
    threads: int
    checkpoints: Path | None = None
    """Folder for the states of unfinished trainings; None: none are kept."""
    report: Callable[[Epoch], None] | None = None
    """Told after every epoch of a training."""
    _server: _Server | None = None
    _living: dict[str, _Process] = field(default_factory=dict[str, _Process])

    def __enter__(self) -> "Workers":
        """Start the fork server now, so that no visit pays for it."""
        if self.device == "cpu":
            self._server = _Server(self.threads)
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

    def dismiss(self, group: str) -> None:
        """End the process that serves `group`, if there is one."""
        process = self._living.pop(group, None)
        if process is not None:
            _bury(process)

    def visit(self, case: Case, round_: int, protocol: MeasuringProtocol, group: str) -> Visited:
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
        process = self._living.pop(group, None) or self._start()
        before = process.cpu_s()
        try:
            answer, end = _ask(process, request, protocol.timeout_s, self.report)
            visited = _visited(answer, end, process, protocol.timeout_s)
        except BaseException:
            _bury(process)
            raise
        if self.device == "cuda" and isinstance(visited.outcome, Ok):
            self._living[group] = process
            return replace(visited, cpu_s=process.cpu_s() - before)
        return replace(visited, cpu_s=_bury(process).cpu_s)

    def _start(self) -> _Process:
        if self.device == "cuda":
            return _Spawned.start(self.threads)
        if self._server is None:
            raise LaunchError("workers are started within `with Workers(...)`")
        return self._server.fork()

    def _common(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "threads": self.threads,
            "variant_files": [str(path) for path in registry.outside_files()],
            "checkpoints": None if self.checkpoints is None else str(self.checkpoints),
        }


def measure_machine(device: DeviceKind, threads: int) -> tuple[Environment, tuple[Ceiling, ...]]:
    """Read this machine and measure its limits, in a worker process of its own.

    Raises:
        LaunchError: the worker failed; the message has its last words.
    """
    process = _Spawned.start(threads)
    request = {"kind": "machine", "device": device, "threads": threads, "variant_files": []}
    try:
        answer, _ = _ask(process, request, _START_S + _MACHINE_S)
        if answer is None:
            process.log.drain()
            raise LaunchError(f"this machine could not be measured: {process.log.words()}")
        return (
            from_json(Environment, answer["environment"]),
            tuple(from_json(Ceiling, ceiling) for ceiling in answer["ceilings"]),
        )
    finally:
        _bury(process)


def _ask(
    process: _Process,
    request: dict[str, Any],
    timeout_s: float,
    report: Callable[[Epoch], None] | None = None,
) -> tuple[dict[str, Any] | None, _End | None]:
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
    answer: dict[str, Any] | None, end: _End | None, process: _Process, timeout_s: float
) -> Visited:
    if answer is not None:
        return Visited(
            outcome=from_json(Outcome, answer["outcome"]),
            measured_s=answer["measured_s"],
            cpu_s=None,
            spent=answer["spent"],
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


def _bury(process: _Process) -> _End:
    """End the process with all that it started, and release what we hold of it."""
    process.channel.close()
    deadline = time.monotonic() + _LAST_WORDS_S
    while (end := process.end()) is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LaunchError(f"process {process.pid} cannot be killed")
        select.select(process.descriptors(), [], [], 0.01)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.log.close()
    return end


def _variables(threads: int) -> dict[str, str]:
    """Environment of a worker: finds this package wherever the launcher was started."""
    variables = worker_variables(threads)
    others = variables.get("PYTHONPATH")
    variables["PYTHONPATH"] = _ROOT if not others else os.pathsep.join((_ROOT, others))
    return variables
