"""Device time of one call that is launched as part of a CUDA graph."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject
from bench.timing_cuda import time_graph


def _measure(subject: Subject, protocol: Protocol) -> Measured:
    seconds = time_graph(subject.call, protocol)
    subject.measured_s += sum(seconds)
    return Measured(metric="latency_graph", rounds=(seconds,))


METRIC = Metric(
    name="latency_graph",
    title="Latency, CUDA graph",
    unit="s",
    better="lower",
    help=(
        "Device time of one call replayed from a CUDA graph: without the host's launches, L2 cache "
        "cold. Calls that cannot be captured have none."
    ),
    every_round=True,
    applies=applies.workload_on_cuda,
    measure=_measure,
    # last, after all that counts memory: a capture that fails spoils torch's allocator
    allocator="keeping",
)
