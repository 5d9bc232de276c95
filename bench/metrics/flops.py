"""FLOPs by closed formula."""

from bench import applies
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    call = subject.call
    flops = call.blueprint.flops(call.shape)
    return Measured(metric="flops", rounds=((flops,),))


METRIC = Metric(
    name="flops",
    title="FLOPs",
    unit="flop",
    better="lower",
    help=(
        "Forward FLOPs of contractions by the variant's formula, one multiply-add counted as two; "
        "projections included at level layer, everything at level model."
    ),
    every_round=False,
    applies=applies.workload,
    measure=_measure,
)
