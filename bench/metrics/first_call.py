"""Time of the first call in a fresh process: what is compiled is compiled in it."""

from bench.gate import passed
from bench.metric import Metric
from bench.model import Case, DeviceKind, Measured, Protocol, Timed
from bench.subject import Subject

_COMPILED = ("compile", "flex", "triton")
"""Backends that compile at the first call with new sizes."""


def _applies(case: Case, _device: DeviceKind) -> bool:
    return isinstance(case.stimulus, Timed) and case.backend in _COMPILED


def _measure(subject: Subject, _protocol: Protocol) -> Measured:
    return Measured(metric="first_call", rounds=((passed(subject).first_call_s,),))


METRIC = Metric(
    name="first_call",
    title="First call",
    unit="s",
    better="lower",
    help=(
        "Time of the first call in a fresh process, waited for. With a compiler it is the time of "
        "compiling, of which nothing is in the latency; less where its cache on disk was filled."
    ),
    every_round=False,
    applies=_applies,
    measure=_measure,
)
