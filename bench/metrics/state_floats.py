"""Numbers that stand for all keys and values."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    count = subject.spec.state_floats(subject.call.shape, subject.options)
    return Measured(metric="state_floats", rounds=((count,),))


METRIC = Metric(
    name="state_floats",
    title="State",
    unit="count",
    better=None,
    help="Numbers per sequence that summarise all keys and values for a query.",
    every_round=False,
    applies=applies.layer_workload,
    measure=_measure,
)
