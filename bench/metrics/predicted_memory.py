"""Memory of one call, predicted without running it."""

from bench import applies
from bench.memory import NotMeasurable, predicted_peak
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    if subject.blueprint is None:
        raise NotMeasurable("a task has no single call")
    peak = predicted_peak(subject.blueprint, subject.call.shape)
    return Measured(metric="predicted_memory", rounds=((peak,),))


METRIC = Metric(
    name="predicted_memory",
    title="Predicted memory",
    unit="byte",
    better="lower",
    help=(
        "Most bytes that a call would hold above inputs and parameters, from the lifetimes of the "
        "storages on fake tensors: needs neither the memory nor the device. Scratch inside a "
        "library's kernels, such as convolutions going backward on a CPU, is not seen."
    ),
    every_round=False,
    applies=applies.workload,
    measure=_measure,
)
