"""Minor page faults of a call with the allocator as it comes."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject
from bench.timing import timed


def _measure(subject: Subject, protocol: Protocol) -> Measured:
    return Measured(metric="page_faults", rounds=((timed(subject, protocol).faults,),))


METRIC = Metric(
    name="page_faults",
    title="Page faults",
    unit="count",
    better="lower",
    help=(
        "Minor page faults a call, median over the samples of the latency with fresh pages. "
        "CPU only."
    ),
    every_round=True,
    applies=applies.workload_on_cpu,
    measure=_measure,
)
