"""Numerical error of the output."""

from bench import applies
from bench.gate import passed
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    return Measured(metric="error", rounds=((passed(subject).error,),))


METRIC = Metric(
    name="error",
    title="Error",
    unit="relative",
    better="lower",
    help=(
        "Largest difference of the output from the reference in float64 on the same rounded "
        "inputs and weights, divided by the largest value."
    ),
    every_round=False,
    applies=applies.workload,
    measure=_measure,
)
