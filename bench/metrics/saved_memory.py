"""Memory kept from forward for backward."""

from bench import applies
from bench.memory import saved_bytes
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    return Measured(metric="saved_memory", rounds=((saved_bytes(subject.call),),))


METRIC = Metric(
    name="saved_memory",
    title="Saved for backward",
    unit="byte",
    better="lower",
    help="Bytes of distinct storages that autograd keeps, without inputs and parameters.",
    every_round=False,
    applies=applies.backward,
    measure=_measure,
)
