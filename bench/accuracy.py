"""Runs the accuracy task of a visit, once for all metrics that ask."""

from bench.learning import learn
from bench.model import TaskRun, digest
from bench.subject import CannotRun, Subject
from bench.task import Assignment, TaskResult, task

TRAINABLE = ("reference", "compile")
"""Backends with which tasks train; the others are checked for single layers only."""


def task_result(subject: Subject) -> TaskResult:
    """Train and test; the time inside training steps counts as measured.

    Raises:
        TypeError: the case is not a task.
        CannotRun: a task with a backend of a single layer.
        DivergedError: the training diverged.
    """
    stimulus = subject.case.stimulus
    if not isinstance(stimulus, TaskRun):
        raise TypeError(f"{subject.case.id}: not a task")
    if subject.case.backend not in TRAINABLE:
        raise CannotRun((f"tasks train {' or '.join(TRAINABLE)} only",))

    def make() -> TaskResult:
        folder = subject.checkpoints
        learned = learn(
            task(stimulus.task),
            Assignment(
                spec=subject.spec,
                options=subject.options,
                seed=stimulus.seed,
                device=subject.device,
                compiled=subject.case.backend == "compile",
                checkpoint=folder / f"{digest(subject.case)[:16]}.pt" if folder else None,
                report=subject.report,
            ),
        )
        subject.measured_s += learned.result.training_time_s
        return learned.result

    return subject.once("task", make)
