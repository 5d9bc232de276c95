"""Time of one call."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject
from bench.timing import timed
from bench.timing_cuda import device_timed


def _measure(subject: Subject, protocol: Protocol) -> Measured:
    if subject.device == "cuda":
        seconds = device_timed(subject, protocol).burst_s
    else:
        seconds = timed(subject, protocol).seconds
    return Measured(metric="latency", rounds=(seconds,))


METRIC = Metric(
    name="latency",
    title="Latency",
    unit="s",
    better="lower",
    help=(
        "Time of one call. On a CPU with an allocator that keeps its pages; on a GPU device time "
        "by events, L2 cache cold. Building, warm-up and clearing gradients are not included."
    ),
    every_round=True,
    applies=applies.workload,
    measure=_measure,
    allocator="keeping",
)
