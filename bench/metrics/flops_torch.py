"""FLOPs of the reference as torch counts them."""

from bench import applies
from bench.counting import torch_flops
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    call = subject.call
    flops = torch_flops(call.layer, call.shape, subject.case.level)
    return Measured(metric="flops_torch", rounds=((flops,),))


METRIC = Metric(
    name="flops_torch",
    title="FLOPs, torch counter",
    unit="flop",
    better="lower",
    help=(
        "Forward FLOPs that torch's FlopCounterMode sees in the reference. "
        "Projections included at level layer."
    ),
    every_round=False,
    applies=applies.workload,
    measure=_measure,
)
