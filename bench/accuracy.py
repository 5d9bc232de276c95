"""Runs the accuracy task of a visit, once for all metrics that ask."""

from bench.model import TaskRun
from bench.subject import CannotRun, Subject
from bench.task import TaskResult, task


def task_result(subject: Subject) -> TaskResult:
    """Train and test; the time inside training steps counts as measured.

    Raises:
        TypeError: the case is not a task.
        CannotRun: a task with a backend other than the reference.
    """
    stimulus = subject.case.stimulus
    if not isinstance(stimulus, TaskRun):
        raise TypeError(f"{subject.case.id}: not a task")
    if subject.case.backend != "reference":
        raise CannotRun(("tasks train the reference only",))

    def make() -> TaskResult:
        run = task(stimulus.task).run
        result = run(subject.spec, subject.options, stimulus.seed, subject.device)
        subject.measured_s += result.training_time_s
        return result

    return subject.once("task", make)
