"""Memory that one call adds to the process, as the system sees it."""

from bench import applies
from bench.memory import resident_peak
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    return Measured(metric="resident_memory", rounds=((resident_peak(subject.call),),))


METRIC = Metric(
    name="resident_memory",
    title="Resident memory",
    unit="byte",
    better="lower",
    help=(
        "Growth of the process's resident set during a warm call from a trimmed heap. Includes "
        "library scratch; unreliable below about 10 MiB. CPU only."
    ),
    every_round=False,
    applies=applies.workload_on_cpu,
    measure=_measure,
)
