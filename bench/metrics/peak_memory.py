"""Memory that one call holds at most, from torch's allocator."""

from bench import applies
from bench.memory import counted_peak
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    return Measured(metric="peak_memory", rounds=((counted_peak(subject.call),),))


METRIC = Metric(
    name="peak_memory",
    title="Peak memory",
    unit="byte",
    better="lower",
    help=(
        "Most bytes that a warm call holds at once above inputs and parameters, output included, "
        "from torch's allocator: exact, twice and equal. Library scratch is not included."
    ),
    every_round=False,
    applies=applies.workload,
    measure=_measure,
)
