"""Clock of the GPU's multiprocessors."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Measurement, Protocol, Unavailable
from bench.subject import Subject
from bench.timing_cuda import device_timed


def _measure(subject: Subject, protocol: Protocol) -> Measurement:
    result = device_timed(subject, protocol)
    seen = tuple(r.clock_hz for r in result.readings if r.clock_hz is not None)
    if not seen:
        reason = result.no_sensor or "this GPU does not show it"
        return Unavailable(metric="clock", reasons=(reason,))
    return Measured(metric="clock", rounds=(seen,))


METRIC = Metric(
    name="clock",
    title="SM clock",
    unit="hz",
    better=None,
    help="SM clock read between the blocks of the sustained run.",
    every_round=True,
    applies=applies.workload_on_cuda,
    measure=_measure,
)
