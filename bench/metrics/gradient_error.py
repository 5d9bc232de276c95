"""Numerical error of the worst gradient."""

from bench import applies
from bench.gate import passed
from bench.memory import NotMeasurable
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    error = passed(subject).gradient_error
    if error is None:
        raise NotMeasurable("the call has no gradients")
    return Measured(metric="gradient_error", rounds=((error,),))


METRIC = Metric(
    name="gradient_error",
    title="Gradient error",
    unit="relative",
    better="lower",
    help=(
        "The worst over inputs and parameters: largest difference of the gradient from that of "
        "the reference in float64, divided by the largest value."
    ),
    every_round=False,
    applies=applies.backward,
    measure=_measure,
)
