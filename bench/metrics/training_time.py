"""Training time of a task."""

from bench import applies
from bench.accuracy import task_result
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    return Measured(metric="training_time", rounds=((task_result(subject).training_time_s,),))


METRIC = Metric(
    name="training_time",
    title="Training time",
    unit="s",
    better="lower",
    help="Time inside the task's training steps.",
    every_round=False,
    applies=applies.task,
    measure=_measure,
)
