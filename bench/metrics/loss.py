"""Loss of a task."""

from bench import applies
from bench.accuracy import task_result
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    return Measured(metric="loss", rounds=((task_result(subject).loss,),))


METRIC = Metric(
    name="loss",
    title="Loss",
    unit="nat",
    better="lower",
    help="Mean test loss in nats.",
    every_round=False,
    applies=applies.task,
    measure=_measure,
)
