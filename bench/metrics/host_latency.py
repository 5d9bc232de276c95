"""Time that a program waits for one call on a GPU."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject
from bench.timing_cuda import device_timed


def _measure(subject: Subject, protocol: Protocol) -> Measured:
    return Measured(metric="host_latency", rounds=(device_timed(subject, protocol).host_s,))


METRIC = Metric(
    name="host_latency",
    title="Host latency",
    unit="s",
    better="lower",
    help="Time from one call to the end of its synchronisation, as a waiting program sees it.",
    every_round=True,
    applies=applies.workload_on_cuda,
    measure=_measure,
)
