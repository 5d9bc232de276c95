"""Accuracy of a task."""

from bench import applies
from bench.accuracy import task_result
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    return Measured(metric="accuracy", rounds=((task_result(subject).accuracy,),))


METRIC = Metric(
    name="accuracy",
    title="Accuracy",
    unit="fraction",
    better="higher",
    help="Share of the task's test set that is classified correctly.",
    every_round=False,
    applies=applies.task,
    measure=_measure,
)
