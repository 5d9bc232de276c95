"""FLOPs by the variant's closed formula."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    count = subject.spec.core_flops if subject.case.level == "core" else subject.spec.flops
    flops = count(subject.call.shape, subject.options)
    return Measured(metric="flops", rounds=((flops,),))


METRIC = Metric(
    name="flops",
    title="FLOPs",
    unit="flop",
    better="lower",
    help=(
        "Forward FLOPs of contractions by the variant's formula, one multiply-add counted as two; "
        "projections included at level layer."
    ),
    every_round=False,
    applies=applies.workload,
    measure=_measure,
)
