"""Temperature of the GPU."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Measurement, Protocol, Unavailable
from bench.subject import Subject
from bench.timing_cuda import device_timed


def _measure(subject: Subject, protocol: Protocol) -> Measurement:
    result = device_timed(subject, protocol)
    seen = tuple(r.temperature_c for r in result.readings if r.temperature_c is not None)
    if not seen:
        reason = result.no_sensor or "this GPU does not show it"
        return Unavailable(metric="temperature", reasons=(reason,))
    return Measured(metric="temperature", rounds=(seen,))


METRIC = Metric(
    name="temperature",
    title="Temperature",
    unit="celsius",
    better=None,
    help=(
        "Temperature of the GPU read between the blocks of the sustained run: where clocks were "
        "held down, it tells heat from another limit."
    ),
    every_round=True,
    applies=applies.workload_on_cuda,
    measure=_measure,
)
