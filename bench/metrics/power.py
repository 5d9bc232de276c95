"""Power of the GPU."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Measurement, Protocol, Unavailable
from bench.subject import Subject
from bench.timing_cuda import device_timed


def _measure(subject: Subject, protocol: Protocol) -> Measurement:
    result = device_timed(subject, protocol)
    seen = tuple(r.power_w for r in result.readings if r.power_w is not None)
    if not seen:
        reason = result.no_sensor or "this GPU does not show it"
        return Unavailable(metric="power", reasons=(reason,))
    return Measured(metric="power", rounds=(seen,))


METRIC = Metric(
    name="power",
    title="Power",
    unit="w",
    better=None,
    help="Power of the whole GPU read between the blocks of the sustained run.",
    every_round=True,
    applies=applies.workload_on_cuda,
    measure=_measure,
)
