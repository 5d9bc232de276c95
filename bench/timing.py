"""Timing on CPU: warm-up until stable, then samples with their page faults.

One sample is one call where a call is long enough to be timed by itself, otherwise the mean of a
block of calls. Inputs rotate with every call. The garbage collector is off. Where a sample is one
call, its result is dropped outside the clock.
"""

import gc
import resource
import statistics
import time
import typing
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.call import Outputs
from bench.model import Protocol
from bench.subject import Subject

_LEAST_WARMUP_CALLS = 3
_WINDOW = 5
_STABLE = 0.01
KEPT = ("timed/default", "timed/keeping", "device_timed")
"""Under which names a subject remembers what was timed, each with a result `kept` to be checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Samples of one block of calls."""

    seconds: tuple[float, ...]
    """Time of one call, a sample each."""
    faults: float
    """Minor page faults a call, median over the samples."""
    calls: int
    """Timed calls."""
    warmup_calls: int
    """Calls before."""
    spent_s: float
    """Time inside the timed calls."""
    kept: Outputs
    """What one of the timed calls on the first input set gave."""


def timed(subject: Subject, protocol: Protocol) -> Timed:
    """Time the subject's call under the allocator policy in force; once for all who ask."""

    def make() -> Timed:
        result = time_calls(subject.call, protocol)
        subject.measured_s += result.spent_s
        return result

    return subject.once(f"timed/{subject.allocator}", make)


class Timeable(typing.Protocol):
    """What can be timed: a call on input set `index`, within its mode."""

    def __call__(self, index: int) -> Outputs:
        """Run once."""
        ...

    @property
    def sets(self) -> int:
        """Number of input sets."""
        ...

    def mode(self) -> AbstractContextManager[None]:
        """What is held open around calls."""
        ...


def time_calls(call: Timeable, protocol: Protocol) -> Timed:
    """Warm up until stable, then take samples."""
    gc.collect()
    gc.disable()
    try:
        with call.mode():
            warmup = _warm_up(call, protocol)
            block = _block(statistics.median(warmup[-_WINDOW:]), protocol)
            return _sample(call, protocol, block, len(warmup))
    finally:
        gc.enable()


def _warm_up(call: Timeable, protocol: Protocol) -> list[float]:
    """Call until the medians of the last two windows agree within 1 %, within the time limits.

    Each result is held during the next call, so that the heap has room for the one that is kept
    later on.
    """
    seconds: list[float] = []
    held: Outputs = ()
    start = time.perf_counter_ns()
    while True:
        before = time.perf_counter_ns()
        held = call(len(seconds))
        now = time.perf_counter_ns()
        seconds.append((now - before) * 1e-9)
        spent = (now - start) * 1e-9
        if len(seconds) >= _LEAST_WARMUP_CALLS and (
            spent >= protocol.warmup_cap_s or (spent >= protocol.warmup_s and is_stable(seconds))
        ):
            del held
            return seconds


def is_stable(seconds: list[float]) -> bool:
    """Whether the medians of the last two windows of five agree within 1 %."""
    if len(seconds) < 2 * _WINDOW:
        return False
    last = statistics.median(seconds[-_WINDOW:])
    earlier = statistics.median(seconds[-2 * _WINDOW : -_WINDOW])
    return abs(last - earlier) <= _STABLE * earlier


def _block(call_s: float, protocol: Protocol) -> int:
    """Calls a sample, so that `most_samples` samples fill at least `sample_s`."""
    return max(1, round(protocol.sample_s / protocol.most_samples / max(call_s, 1e-9)))


def _sample(call: Timeable, protocol: Protocol, block: int, warmup_calls: int) -> Timed:
    seconds: list[float] = []
    kept: Outputs = ()
    first = (1 - block) % call.sets  # so that the last call of the first sample is on set 0
    index, spent = first, 0.0
    faults: list[float] = []
    while not _is_enough(seconds, spent, protocol):
        result: Outputs = ()
        faults_before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        before = time.perf_counter_ns()
        for _ in range(block):
            result = call(index)
            index += 1
        now = time.perf_counter_ns()
        faulted = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults_before
        faults.append(faulted / block)
        sample_s = (now - before) * 1e-9
        spent += sample_s
        seconds.append(sample_s / block)
        if not kept and spent >= protocol.sample_s / 2 and (index - 1) % call.sets == 0:
            kept = result
        del result
    return Timed(
        seconds=tuple(seconds),
        faults=statistics.median(faults),
        calls=index - first,
        warmup_calls=warmup_calls,
        spent_s=spent,
        kept=kept or call(0),
    )


def _is_enough(seconds: list[float], spent: float, protocol: Protocol) -> bool:
    if not seconds:
        return False
    if len(seconds) >= protocol.most_samples or spent >= protocol.sample_cap_s:
        return True
    return spent >= protocol.sample_s and len(seconds) >= protocol.least_samples
