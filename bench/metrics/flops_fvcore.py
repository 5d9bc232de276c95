"""FLOPs of the reference as fvcore counts them."""

from bench import applies
from bench.counting import fvcore_flops
from bench.metric import Metric
from bench.model import Measured, Protocol, Unavailable
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured | Unavailable:
    call = subject.call
    count = fvcore_flops(call.layer, call.shape, subject.case.level)
    if count.unseen:
        operators = ", ".join(sorted(count.unseen))
        reason = f"fvcore has no handle for {operators}: its count would miss them"
        return Unavailable(metric="flops_fvcore", reasons=(reason,))
    return Measured(metric="flops_fvcore", rounds=((count.flops,),))


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
