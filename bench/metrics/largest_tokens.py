"""The longest sequence whose call fits into a memory budget."""

from bench import applies
from bench.frontier import largest_tokens
from bench.memory import NotMeasurable
from bench.metric import Metric
from bench.model import Frontier, Measured, Protocol
from bench.subject import Subject


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    stimulus = subject.case.stimulus
    if subject.blueprint is None or not isinstance(stimulus, Frontier):
        raise NotMeasurable("only a frontier has a largest size")
    found = largest_tokens(subject.blueprint, stimulus)
    subject.checked = found.statement
    return Measured(metric="largest_tokens", rounds=((found.tokens,),))


METRIC = Metric(
    name="largest_tokens",
    title="Largest N",
    unit="count",
    better="higher",
    help=(
        "Most tokens of one sequence whose call stays within the budget above inputs and "
        "parameters, to within a sixteenth of an octave; the next size does not fit."
    ),
    every_round=False,
    applies=applies.frontier,
    measure=_measure,
)
