"""Runs the visits of a plan one after the other on this machine."""

import time
from dataclasses import dataclass, replace

from bench import load
from bench.executor import Executor, Progress
from bench.journal import Entry, Journal
from bench.launch import Visited, Workers
from bench.model import DeviceKind, Ok, Outcome, Plan, Visit
from bench.schedule import ANCHOR, Turn, needless, visits

_LEAST_INTERVAL_S = 0.2
"""CPU counters tick every 10 ms: over less than this a load is not worth stating."""
_LOOK_S = 0.5


def run(plan: Plan, journal: Journal, device: DeviceKind, progress: Progress) -> None:
    """Make every visit that the journal does not hold yet.

    Raises:
        JournalError: the disk is full.
        LaunchError: workers cannot be started.
        KeyboardInterrupt: after the running worker was killed; the journal can be resumed.
    """
    began = time.monotonic()
    foreign = load.foreign_load(_LOOK_S)
    if foreign > load.BUSY_CPUS:
        progress.note(
            f"busy machine: others use {foreign:.1f} CPUs, so the numbers will be marked; "
            "for clean ones stop other programs and start again"
        )
    threads = journal.header.environment.threads
    # beside the journal, under its name: only the run itself goes on from them
    checkpoints = journal.path.with_suffix("")
    with Workers(device, threads, checkpoints, progress.trained) as workers:
        _Sweep(plan, journal, workers, progress).go(visits(plan, device), began)


class _Sweep:
    """One pass through the visits."""

    def __init__(self, plan: Plan, journal: Journal, workers: Workers, progress: Progress) -> None:
        self._plan = plan
        self._journal = journal
        self._workers = workers
        self._progress = progress
        self._cases = {case.id: case for case in (*plan.cases, *plan.noise_pairs)}

    def go(self, turns: tuple[Turn, ...], began: float) -> None:
        """Make the visits that are still to be made, in their order.

        Args:
            turns: every visit of the plan.
            began: the monotonic clock at the start of the run; the first visit's wall time counts
                from there.
        """
        outcomes = self._journal.outcomes
        failed = {visit.case_id for visit, o in outcomes.items() if not isinstance(o, Ok)}
        group = ""
        meter = replace(_Meter.now(), wall=began)
        for place, turn in enumerate(turns):
            if turn.visit in outcomes or turn.case.id in failed:
                continue
            if turn.group != ANCHOR and turn.group != group:
                self._workers.dismiss(group)
                group = turn.group
            self._progress.started(turn.case, place, len(turns))
            visited = self._visited(turn, outcomes)
            meter, wall_s, foreign = meter.lap(visited.cpu_s)
            self._journal.append(
                Entry(
                    case_id=turn.case.id,
                    round=turn.visit.round,
                    repetition=turn.visit.repetition,
                    outcome=visited.outcome,
                    wall_s=wall_s,
                    measured_s=visited.measured_s,
                    foreign_load=foreign,
                )
            )
            outcomes[turn.visit] = visited.outcome
            if not isinstance(visited.outcome, Ok):
                failed.add(turn.case.id)
            self._progress.finished(turn.case, visited.outcome)

    def _visited(self, turn: Turn, outcomes: dict[Visit, Outcome]) -> Visited:
        if reason := needless(turn.case, self._cases, outcomes):
            return Visited(outcome=reason, measured_s=0.0, cpu_s=0.0, spent={})
        return self._workers.visit(turn.case, turn.visit.round, self._plan.protocol, turn.group)


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


EXECUTOR = Executor(name="local", title="this machine, one visit after the other", run=run)
