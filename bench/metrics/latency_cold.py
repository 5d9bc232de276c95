"""Time of one call on a CPU with the allocator as it comes."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject
from bench.timing import timed


def _measure(subject: Subject, protocol: Protocol) -> Measured:
    return Measured(metric="latency_cold", rounds=(timed(subject, protocol).seconds,))


METRIC = Metric(
    name="latency_cold",
    title="Latency, fresh pages",
    unit="s",
    better="lower",
    help=(
        "Time of one call with malloc's defaults, under which large buffers are mapped anew by "
        "each call and every page of them faults once. CPU only."
    ),
    every_round=True,
    applies=applies.workload_on_cpu,
    measure=_measure,
)
