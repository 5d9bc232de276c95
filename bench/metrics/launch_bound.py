"""Whether the host was slower at issuing a call than the GPU at running it."""

import statistics

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject
from bench.timing_cuda import device_timed


def _measure(subject: Subject, protocol: Protocol) -> Measured:
    found = device_timed(subject, protocol)
    device_s = statistics.median(found.burst_s)
    seen = tuple(float(issued >= device_s) for issued in found.issued_s)
    return Measured(metric="launch_bound", rounds=(seen,))


METRIC = Metric(
    name="launch_bound",
    title="Launch bound",
    unit="fraction",
    better="lower",
    help=(
        "1 where issuing a call took the host as long as running it took the GPU, else 0: the "
        "latency of such a row is that of its launches, and a CUDA graph would be faster."
    ),
    every_round=True,
    applies=applies.workload_on_cuda,
    measure=_measure,
)
