"""A process with torch imported that forks a worker for each visit, in about 10 ms.

The standard library's fork server is not used because it imports the parent's main module again in
every child, swallows a failed preload, and lets a running child outlive a killed launcher. Here the
server sees its launcher's end of the socket close and takes the running worker with it.

CPU only: a process that has touched CUDA cannot be forked.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
from types import FrameType


def serve(control: socket.socket) -> None:
    """Fork a worker for each message until the other end closes.

    A message is one byte with two file descriptors: the worker's channel and its log. The answers
    are JSON lines: `{"pid": int}` once it runs, then `{"status": int, "cpu_s": float}` at its end,
    where status is the exit code or minus the signal.
    """
    from bench import worker  # noqa: PLC0415 - the import of torch is what this process is for

    worker.preload()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _noticed)
    control.sendall(b'{"ready": true}\n')
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        channel, log = descriptors
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (control.fileno(), wake_read, wake_write):
                os.close(descriptor)
            os.setsid()
            worker.main(channel, log, server)
        os.close(channel)
        os.close(log)
        _answer(control, {"pid": pid})
        if not _watch(control, wake_read, pid):
            return


def _watch(control: socket.socket, wake: int, pid: int) -> bool:
    """Report the end of `pid`; return False, with `pid` killed, when the launcher is gone."""
    while True:
        ready, _, _ = select.select([control, wake], [], [])
        if wake in ready:
            os.read(wake, 64)
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                _end_group(pid)
                cpu_s = usage.ru_utime + usage.ru_stime
                code = os.waitstatus_to_exitcode(status)
                return _answer(control, {"status": code, "cpu_s": cpu_s})
        if control in ready and not control.recv(1, socket.MSG_PEEK):
            _end_group(pid)
            return False


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _answer(control: socket.socket, message: dict[str, object]) -> bool:
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True


def _noticed(_signal: int, _frame: FrameType | None) -> None:
    """Do nothing: the wakeup descriptor is what matters, and it needs a handler to be set."""


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # nothing here needs the interpreter's slow farewell
