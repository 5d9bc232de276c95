"""FLOPs of the reference as fvcore counts them."""

from bench import applies
from bench.counting import fvcore_flops
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    call = subject.call
    flops = fvcore_flops(call.layer, call.shape, subject.case.level).flops
    return Measured(metric="flops_fvcore", rounds=((flops,),))


METRIC = Metric(
    name="flops_fvcore",
    title="FLOPs, fvcore",
    unit="flop",
    better="lower",
    help=(
        "Twice the multiply-adds that fvcore, with this project's handlers, sees in the reference. "
        "Projections included at level layer."
    ),
    every_round=False,
    applies=applies.workload,
    measure=_measure,
)
