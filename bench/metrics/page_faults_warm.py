"""Minor page faults of a call with an allocator that keeps its pages."""

from bench import allocator, applies
from bench.metric import Metric
from bench.model import Measured, Measurement, Protocol, Unavailable
from bench.subject import Subject
from bench.timing import timed


def _measure(subject: Subject, protocol: Protocol) -> Measurement:
    if reason := allocator.uncontrolled():
        return Unavailable(metric="page_faults_warm", reasons=(reason,))
    return Measured(metric="page_faults_warm", rounds=((timed(subject, protocol).faults,),))


METRIC = Metric(
    name="page_faults_warm",
    title="Page faults, kept pages",
    unit="count",
    better="lower",
    help="Minor page faults a call, median over the samples of the latency. CPU only.",
    every_round=True,
    applies=applies.workload_on_cpu,
    measure=_measure,
    allocator="keeping",
)
