"""Whether the GPU was held below its clocks."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Measurement, Protocol, Unavailable
from bench.subject import Subject
from bench.timing_cuda import device_timed


def _measure(subject: Subject, protocol: Protocol) -> Measurement:
    result = device_timed(subject, protocol)
    seen = tuple(float(r.throttled) for r in result.readings if r.throttled is not None)
    if not seen:
        reason = result.no_sensor or "this GPU does not show it"
        return Unavailable(metric="throttled", reasons=(reason,))
    return Measured(metric="throttled", rounds=(seen,))


METRIC = Metric(
    name="throttled",
    title="Throttled",
    unit="fraction",
    better="lower",
    help=(
        "Readings of the sustained run, 1 where a power, heat or other limit held the clock down, "
        "else 0."
    ),
    every_round=True,
    applies=applies.workload_on_cuda,
    measure=_measure,
)
