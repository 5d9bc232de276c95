"""Learned numbers."""

from torch import nn

from bench import applies
from bench.accuracy import task_result
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    if subject.prepared is None:
        count = task_result(subject).parameters
    else:
        layer = subject.prepared.layer
        module = layer.mix if subject.case.level == "core" else layer
        learned = module.parameters() if isinstance(module, nn.Module) else ()
        count = sum(parameter.numel() for parameter in learned)
    return Measured(metric="parameters", rounds=((count,),))


METRIC = Metric(
    name="parameters",
    title="Parameters",
    unit="count",
    better="lower",
    help="Learned numbers of the core, the layer, or the whole network.",
    every_round=False,
    applies=applies.workload_or_task,
    measure=_measure,
)
