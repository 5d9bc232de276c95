"""Energy of one call."""

from pathlib import Path

from bench import applies, rapl
from bench.metric import Metric
from bench.model import Measured, Measurement, Protocol, Unavailable
from bench.subject import Subject
from bench.timing import time_calls
from bench.timing_cuda import device_timed


def _measure(subject: Subject, protocol: Protocol) -> Measurement:
    if subject.device == "cuda":
        result = device_timed(subject, protocol)
        if result.energy_j is None:
            reason = result.no_sensor or "this GPU does not count its energy"
            return Unavailable(metric="energy", reasons=(reason,))
        return Measured(metric="energy", rounds=((result.energy_j,),))
    zones = rapl.packages()
    if isinstance(zones, str):
        return Unavailable(metric="energy", reasons=(zones,))
    return Measured(metric="energy", rounds=((_on_cpu(subject, protocol, zones),),))


def _on_cpu(subject: Subject, protocol: Protocol, zones: tuple[Path, ...]) -> float:
    before = rapl.read(zones)
    result = time_calls(subject.call, protocol)
    spent = rapl.spent_j(before, rapl.read(zones))
    subject.measured_s += result.spent_s
    return spent / (result.calls + result.warmup_calls)


METRIC = Metric(
    name="energy",
    title="Energy",
    unit="j",
    better="lower",
    help=(
        "Energy of one call, mean over a back-to-back run: the whole GPU by NVML's counter, or "
        "the whole CPU package by RAPL's, idle power included."
    ),
    every_round=True,
    applies=applies.workload,
    measure=_measure,
    allocator="keeping",
)
