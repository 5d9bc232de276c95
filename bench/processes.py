"""Worker processes, forked or started anew: their private channel, their log, their end.

On Linux each is the leader of a session of its own, so that burying it ends all that it started.
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
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from bench import failures
from bench.import_path import import_path
from bench.worker_variables import worker_variables

START_S = 120.0
"""Time a process may take to import torch and answer."""
_LOG_TAIL_BYTES = 16 << 10
_GONE = "the fork server is gone: the system may have ended it; what is measured is not lost"
_LAST_WORDS_S = 2.0
_DEATH_S = 60.0
"""Taking back the memory of a large process, on the GPU above all, takes the system seconds."""


class LaunchError(RuntimeError):
    """A worker process could not be started or did not answer as agreed: not the case's fault."""


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended."""

    status: int
    """Exit code, or minus the signal."""
    cpu_s: float | None


class Process(Protocol):
    """A worker process: a private channel, a log, an end."""

    pid: int
    channel: socket.socket
    log: "Log"

    def descriptors(self) -> list[int]:
        """What becomes readable when the process ends."""
        ...

    def end(self) -> End | None:
        """How it ended; None while it runs. Does not wait."""
        ...

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        ...


@dataclass(slots=True)
class Log:
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


class ForkServer:
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
            ready = self.read(START_S)
        except LaunchError:
            ready = None
        if ready is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_WORDS_S)
            self._process.kill()
            _, errors = self._process.communicate()
            self.control.close()
            raise LaunchError(
                f"the fork server did not start: {failures.published(errors.decode())}"
            )

    def fork(self) -> "Forked":
        """Start a worker.

        Raises:
            LaunchError: the server is gone.
        """
        with _connection() as (channel, log, descriptors):
            try:
                socket.send_fds(self.control, [b"f"], descriptors)
            except (BrokenPipeError, ConnectionResetError):
                raise LaunchError(_GONE) from None
            answer = self.read(START_S)
            if answer is None:
                raise LaunchError("the fork server does not answer")
            return Forked(int(answer["pid"]), channel, log, self)

    def read(self, timeout_s: float) -> dict[str, Any] | None:
        """Return what the server says next; None if it says nothing in time.

        Raises:
            LaunchError: the server is gone.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self.control], [], [], left)[0]:
                return None
            try:
                data = self.control.recv(1 << 12)
            except ConnectionResetError:
                data = b""
            if not data:
                raise LaunchError(_GONE)
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
class Forked:
    """A worker forked from the server."""

    pid: int
    channel: socket.socket
    log: Log
    server: ForkServer
    _end: End | None = None

    def descriptors(self) -> list[int]:
        """The server tells of the end."""
        return [self.server.control.fileno()]

    def end(self) -> End | None:
        """How it ended, as the server saw it."""
        if self._end is None:
            message = self.server.read(0.0)
            if message is not None:
                self._end = End(int(message["status"]), float(message["cpu_s"]))
        return self._end

    def cpu_s(self) -> float:
        """The server tells at the end; a forked worker starts from none."""
        return 0.0


@dataclass(slots=True)
class Spawned:
    """A worker started anew, for CUDA and for questions about the machine."""

    pid: int
    channel: socket.socket
    log: Log
    process: "subprocess.Popen[bytes]"

    @classmethod
    def start(cls, threads: int) -> "Spawned":
        """Start a worker; it imports torch and waits."""
        with _connection() as (channel, log, descriptors):
            arguments = map(str, (*descriptors, os.getpid()))
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.worker", *arguments],
                pass_fds=descriptors,
                env=_variables(threads),
                stdin=subprocess.DEVNULL,
                stdout=descriptors[1],
                stderr=descriptors[1],
                start_new_session=True,
            )
            return cls(process.pid, channel, log, process)

    def descriptors(self) -> list[int]:
        """Nothing but its channel's end tells of it."""
        return []

    def end(self) -> End | None:
        """How it ended."""
        status = self.process.poll()
        return None if status is None else End(status, None)

    def cpu_s(self) -> float:
        """As the system counts it, ended children included."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system + times.children_user + times.children_system


def bury(process: Process) -> End:
    """End the process with all that it started, and release what we hold of it.

    Raises:
        LaunchError: it does not end.
    """
    process.channel.close()
    try:
        deadline = time.monotonic() + _DEATH_S
        while (end := process.end()) is None:
            _kill_all_of(process)
            if time.monotonic() > deadline:
                raise LaunchError(f"process {process.pid} cannot be killed")
            select.select(process.descriptors(), [], [], 0.01)
        return end
    finally:
        _kill_all_of(process)
        process.log.close()


def _kill_all_of(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _connection() -> Generator[tuple[socket.socket, Log, tuple[int, int]]]:
    """Our channel and log of a worker, and its ends of them, which are open inside only.

    If it cannot be started nothing stays open.
    """
    channel, theirs = socket.socketpair()
    read, write = os.pipe()
    os.set_blocking(read, False)
    log = Log(read)
    try:
        yield channel, log, (theirs.fileno(), write)
    except BaseException:
        channel.close()
        log.close()
        raise
    finally:
        theirs.close()
        os.close(write)


def _variables(threads: int) -> dict[str, str]:
    """Environment of a worker: finds this package wherever the launcher was started."""
    variables = worker_variables(threads)
    return {**variables, "PYTHONPATH": import_path(variables)}
