"""A slot in a process of its own, spoken to through pipes."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from bench.executor import Event, Lost, Slot
from bench.import_path import import_path
from bench.slot import Message, event_of

_END_S = 5.0


class SlotProcess:
    """Our end of a process that serves one slot."""

    def __init__(
        self,
        slot: Slot,
        variables: Mapping[str, str],
        cpus: Sequence[int],
        *,
        command: Sequence[str] | None = None,
    ) -> None:
        """Start it.

        Args:
            slot: what it is called.
            variables: of its environment, beside those of this process.
            cpus: where it and its workers run; empty: wherever this process may.
            command: what serves the messages; None: bench.slot.
        """
        self.slot = slot
        self._buffer = b""
        self._process = subprocess.Popen(
            command or (sys.executable, "-m", "bench.slot", str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(variables),
            start_new_session=True,
        )
        if cpus and hasattr(os, "sched_setaffinity"):
            # it imports for a second yet: nothing was started that would not inherit this
            os.sched_setaffinity(self._process.pid, cpus)
        if self._process.stdin is None or self._process.stdout is None:
            raise TypeError("a process with pipes has none")
        self._to, self._from = self._process.stdin, self._process.stdout
        os.set_blocking(self._from.fileno(), False)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Becomes readable when there is a message, or none will come."""
        return self._from.fileno()

    def ask(self, request: Message) -> None:
        """Send a request; a dead process is noticed when its answer is read."""
        with contextlib.suppress(BrokenPipeError):
            self._to.write(json.dumps(request).encode() + b"\n")
            self._to.flush()

    def events(self) -> list[Event]:
        """Return what was said since the last call, without waiting; Lost when it is gone."""
        open_ = True
        while open_:
            try:
                data = os.read(self.fileno(), 1 << 20)
            except BlockingIOError:
                break
            open_ = bool(data)
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        found = [event_of(self.slot, json.loads(line)) for line in lines]
        if not open_:
            status = self._process.wait()
            how = f"ended by signal {-status}" if status < 0 else f"exited with status {status}"
            found.append(Lost(slot=self.slot, reason=f"its process {how}"))
        return found

    def close(self) -> None:
        """End it and what it started."""
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        try:
            self._process.wait(0 if self._process.poll() is not None else _END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._from.close()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    merged = {**os.environ, **variables}
    return {**merged, "PYTHONPATH": import_path(merged)}
