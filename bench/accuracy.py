"""Runs the accuracy task of a visit, once for all metrics that ask."""

import torch

from bench.blueprint import CannotRun
from bench.learning import learn
from bench.model import TaskRun, digest
from bench.subject import Subject
from bench.task import Assignment, TaskResult, task
from bench.together import Joint, learn_together

TRAINABLE = ("reference", "compile")
"""Backends with which tasks train; the others are checked for single layers only."""


def task_result(subject: Subject) -> TaskResult:
    """Train and test; the time inside training steps of this visit counts as measured.

    Raises:
        TypeError: the case is not a task.
        CannotRun: a task with a backend of a single layer.
        DivergedError: the training diverged.
        EndedError: a training of several processes ended otherwise than well.
    """
    stimulus = subject.case.stimulus
    if not isinstance(stimulus, TaskRun):
        raise TypeError(f"{subject.case.id}: not a task")
    if subject.case.backend not in TRAINABLE:
        raise CannotRun((f"tasks train {' or '.join(TRAINABLE)} only",))

    def make() -> TaskResult:
        folder = subject.checkpoints
        checkpoint = folder / f"{digest(subject.case)[:16]}.pt" if folder else None
        if subject.together > 1:
            result = learn_together(
                Joint(
                    case=subject.case,
                    device=subject.device,
                    processes=subject.together,
                    threads=torch.get_num_threads(),
                    checkpoint=checkpoint,
                    limit_bytes=subject.memory_limit_bytes,
                    report=subject.report,
                )
            )
        else:
            assignment = Assignment(
                spec=subject.spec,
                options=subject.options,
                seed=stimulus.seed,
                device=subject.device,
                compiled=subject.case.backend == "compile",
                checkpoint=checkpoint,
                report=subject.report,
            )
            result = learn(task(stimulus.task), assignment).result
        subject.measured_s += result.visit_s
        return result

    return subject.once("task", make)
