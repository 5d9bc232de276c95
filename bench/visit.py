"""One visit of one case in this process: look up, build, check, measure, confirm."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import allocator, failures
from bench.accuracy import task_result
from bench.blueprint import CannotRun
from bench.call import Call, call_of
from bench.endings import outcome_of
from bench.frontier import largest_batch
from bench.gate import FLOP_LIMIT_FIRST_ROUND, FLOP_LIMIT_LATER, Passed, admit, confirm
from bench.memory import NotMeasurable
from bench.metric import Metric, metrics
from bench.model import (
    Case,
    Measurement,
    Ok,
    Outcome,
    Protocol,
    TaskRun,
    Timed,
    Unavailable,
)
from bench.subject import Subject, shape_of, subject_of
from bench.task import Epoch
from bench.timing import KEPT


@dataclass(slots=True, kw_only=True)
class Visited:
    """What a visit gave."""

    outcome: Outcome
    measured_s: float
    """Time inside measured calls."""
    spent: dict[str, float]
    """Seconds of each stage of the visit."""


def visit(
    case: Case,
    round_: int,
    protocol: Protocol,
    device: Any,
    *,
    checkpoints: Path | None = None,
    report: Callable[[Epoch], None] | None = None,
    together: int = 1,
) -> Visited:
    """Run one visit; every ending of the code under test that leaves us alive is an outcome.

    Args:
        case: what runs.
        round_: round of the visit.
        protocol: how it is measured.
        device: `cpu` or `cuda`.
        checkpoints: folder for the states of unfinished trainings; None: none are kept.
        report: told after every epoch of a training.
        together: devices that train a network together.
    """
    clock = _Stages()
    subject: Subject | None = None
    try:
        subject = subject_of(case, device)
        subject.checkpoints, subject.report, subject.together = checkpoints, report, together
        subject.memory_limit_bytes = protocol.memory_limit_bytes
        outcome = _measure(subject, round_, protocol, clock)
    except Exception as failure:  # noqa: BLE001 - the code under test may raise anything
        outcome = outcome_of(failure, protocol.memory_limit_bytes)
    return Visited(
        outcome=outcome,
        measured_s=0.0 if subject is None else subject.measured_s,
        spent=clock.seconds,
    )


def _measure(subject: Subject, round_: int, protocol: Protocol, clock: "_Stages") -> Outcome:
    stimulus = subject.case.stimulus
    batch, executed, passed = None, "reference", None
    if subject.blueprint is not None and isinstance(stimulus, Timed):
        blueprint = subject.blueprint
        one = shape_of(stimulus, 1)
        if reasons := blueprint.refusals(one):
            raise CannotRun(reasons)
        batch = stimulus.batch or largest_batch(blueprint, one, protocol.memory_limit_bytes)
        shape = shape_of(stimulus, batch)
        executed = blueprint.executed(shape)
        clock.start("build")
        subject.prepared = call_of(blueprint, shape)
        clock.start("gate")
        passed = admit(
            subject.prepared,
            flop_limit=FLOP_LIMIT_LATER if round_ else FLOP_LIMIT_FIRST_ROUND,
        )
        subject.checked = passed.checked
        subject.memo["passed"] = passed
    elif subject.blueprint is not None and subject.blueprint.backend is not None:
        executed = subject.blueprint.backend.title
    measurements = _measurements(subject, round_, protocol, clock)
    clock.start("confirm")
    if subject.prepared is not None and passed is not None:
        _confirm(subject, subject.prepared, passed)
    clock.stop()
    training = task_result(subject).training if isinstance(stimulus, TaskRun) else None
    if training is not None and subject.together > 1:
        executed += f", {subject.together} processes together (DistributedDataParallel)"
    return Ok(
        measurements=measurements,
        executed=executed,
        batch=batch,
        checked=subject.checked,
        training=training,
    )


def _measurements(
    subject: Subject, round_: int, protocol: Protocol, clock: "_Stages"
) -> tuple[Measurement, ...]:
    wanted = [
        metric
        for metric in metrics()
        if metric.applies(subject.case, subject.device) and (metric.every_round or not round_)
    ]
    found: dict[str, Measurement] = {}
    for policy in ("default", "keeping"):
        due = [metric for metric in wanted if metric.allocator == policy]
        if not due:
            continue
        if policy == "keeping" and subject.device == "cpu":
            if allocator.uncontrolled() is None:
                allocator.keep_pages()
            subject.allocator = policy
        for metric in due:
            clock.start(metric.name)
            found[metric.name] = _one(metric, subject, protocol)
    return tuple(found[name] for name in sorted(found))


def _one(metric: Metric, subject: Subject, protocol: Protocol) -> Measurement:
    """Measure; what cannot vary and fails says why, what is timed and fails ends the visit."""
    try:
        return metric.measure(subject, protocol)
    except NotMeasurable as why:
        return Unavailable(metric=metric.name, reasons=(failures.published(str(why)),))
    except Exception as failure:
        if metric.every_round or subject.prepared is None or failures.is_out_of_memory(failure):
            raise
        reason = failures.published(f"{type(failure).__name__}: {failure}")
        return Unavailable(metric=metric.name, reasons=(reason,))


def _confirm(subject: Subject, call: Call, passed: Passed) -> None:
    for key in KEPT:
        if key in subject.memo:
            confirm(call, passed, subject.memo[key].kept)


class _Stages:
    """Names the seconds of each stage of a visit."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()
        self._name = "look_up"

    def start(self, name: str) -> None:
        """End the current stage and begin `name`."""
        self.stop()
        self._name = name

    def stop(self) -> None:
        """End the current stage."""
        now = time.perf_counter()
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._began
        self._began = now
