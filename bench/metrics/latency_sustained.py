"""Device time of one call while the GPU runs without rest."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject
from bench.timing_cuda import device_timed


def _measure(subject: Subject, protocol: Protocol) -> Measured:
    seconds = device_timed(subject, protocol).sustained_s
    return Measured(metric="latency_sustained", rounds=(seconds,))


METRIC = Metric(
    name="latency_sustained",
    title="Latency, sustained",
    unit="s",
    better="lower",
    help=(
        "Device time of one call in the second half of a back-to-back run, when power and clocks "
        "have settled."
    ),
    every_round=True,
    applies=applies.workload_on_cuda,
    measure=_measure,
)
