"""Visits on one device of this node, with the clocks and counters beside each."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from bench import load
from bench.launch import Workers
from bench.model import Case, Outcome, Protocol
from bench.schedule import ANCHOR

_LEAST_INTERVAL_S = 0.2
"""CPU counters tick every 10 ms: over less than this a load is not worth stating."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visited:
    """How one visit went."""

    outcome: Outcome
    wall_s: float
    """From the end of the visit before to the end of this one."""
    measured_s: float
    """Time inside measured calls."""
    foreign_load: float | None
    """CPUs kept busy by others meanwhile; None where the visit was too short to tell."""


class Visitor:
    """Makes one visit after the other; a context manager that leaves no worker behind."""

    def __init__(self, workers: Workers, began: float) -> None:
        """Count wall time from `began`, on the monotonic clock."""
        self._workers = workers
        self._began = began
        self._group = ""
        self._meter: _Meter | None = None

    def __enter__(self) -> "Visitor":
        self._workers.__enter__()
        self._meter = replace(_Meter.now(), wall=self._began)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._workers.close()

    def visit(
        self, case: Case, round_: int, group: str, protocol: Protocol, checkpoints: Path | None
    ) -> Visited:
        """Make one visit; whatever becomes of the worker is an outcome.

        Raises:
            LaunchError: no worker could be started.
        """
        if group not in (ANCHOR, self._group):
            self._workers.dismiss(self._group)
            self._group = group
        self._workers.checkpoints = checkpoints
        meter = self._meter or _Meter.now()
        visited = self._workers.visit(case, round_, protocol, group)
        self._meter, wall_s, foreign = meter.lap(visited.cpu_s)
        return Visited(
            outcome=visited.outcome,
            wall_s=wall_s,
            measured_s=visited.measured_s,
            foreign_load=foreign,
        )


@dataclass(frozen=True, slots=True)
class _Meter:
    """Clocks at the end of a visit."""

    wall: float
    """From where wall time counts."""
    read_at: float
    """When the counters were read."""
    busy: float
    own: float

    @classmethod
    def now(cls) -> "_Meter":
        """Read the clocks."""
        at = time.monotonic()
        return cls(at, at, load.busy_seconds(), load.own_seconds())

    def lap(self, worker_s: float | None) -> tuple["_Meter", float, float | None]:
        """Read them again: the new reading, seconds since, CPUs that others kept busy since.

        Args:
            worker_s: CPU seconds of the worker meanwhile; None where they are not known.
        """
        now = _Meter.now()
        wall_s = now.wall - self.wall
        interval_s = now.read_at - self.read_at
        if worker_s is None or interval_s < _LEAST_INTERVAL_S:
            return now, wall_s, None
        foreign = now.busy - self.busy - (now.own - self.own) - worker_s
        return now, wall_s, max(0.0, foreign / interval_s)
