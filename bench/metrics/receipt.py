"""A few values of the output that was timed."""

from bench import applies
from bench.gate import passed
from bench.metric import Metric
from bench.model import Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    return Measured(metric="receipt", rounds=(passed(subject).receipt,))


METRIC = Metric(
    name="receipt",
    title="Receipt",
    unit="value",
    better=None,
    help=(
        "Eight values of the output on the first input, in the dtype that was timed; "
        "`attnbench check` computes those of small cases again."
    ),
    every_round=False,
    applies=applies.workload,
    measure=_measure,
)
