"""Timing on CUDA: device time by events, host time beside it, burst and sustained, with sensors.

Device time: an event before and after each sample, the queue kept filled behind a sleeping kernel,
one synchronisation a block. Inputs rotate through more than three times the L2 cache, so that each
call finds it cold. Host time: one call and one synchronisation, as a program that waits sees it.
Where issuing calls takes the host longer than running them takes the GPU, device time is that of
launches (`launch_bound`); a CUDA graph shows what is left without them.
"""

import gc
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch

from bench.call import Outputs
from bench.memory import NotMeasurable
from bench.model import Protocol
from bench.nvml import Reading, Sensor
from bench.subject import Subject
from bench.timing import Timeable, is_stable

T = TypeVar("T")

WARMUP_FACTOR = 5.0
"""Clocks of a GPU settle more slowly than a CPU's: warm-up lasts at least this times `warmup_s`."""
_LEAST_WARMUP_CALLS = 3
_LEAST_SAMPLE_S = 100e-6
"""Events resolve about half a microsecond: shorter calls are timed in blocks."""
_SAMPLES_A_BLOCK = 20
_SLEEP_CYCLES_PER_S = 1.5e9
_LONGEST_SLEEP_S = 0.05
_SHORT_SLEEP_S = 0.0002
"""Between blocks of the sustained run the GPU must hardly rest, or it would cool."""
_SUSTAINED_BLOCK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTimed:
    """What one visit on a GPU gave."""

    burst_s: tuple[float, ...]
    """Device time of one call, right after warm-up."""
    issued_s: tuple[float, ...]
    """Host time of issuing one call to an empty queue, without waiting: a sample each queue."""
    host_s: tuple[float, ...]
    """Host time of one call that is waited for."""
    sustained_s: tuple[float, ...]
    """Device time of one call in the second half of the back-to-back run."""
    energy_j: float | None
    """Energy of one call, mean over the back-to-back run; None where it is not counted."""
    readings: tuple[Reading, ...]
    """Sensors during the back-to-back run."""
    no_sensor: str | None
    """Why there are no readings."""
    spent_s: float
    """Time inside timed calls."""
    kept: Outputs
    """What a timed call on the first input set gave."""


def device_timed(subject: Subject, protocol: Protocol) -> DeviceTimed:
    """Time the subject's call on the GPU; once for all who ask."""

    def make() -> DeviceTimed:
        result = time_on_device(subject.call, protocol, Sensor.of_current_device())
        subject.measured_s += result.spent_s
        return result

    return subject.once("device_timed", make)


def time_on_device(call: Timeable, protocol: Protocol, sensor: Sensor | str) -> DeviceTimed:
    """Warm up, then burst, host time and the sustained run, in this order."""
    gc.collect()
    gc.disable()
    try:
        with call.mode():
            call_s = _warm_up(call, protocol)
            block = max(1, round(_LEAST_SAMPLE_S / call_s))
            burst = _burst(call, protocol, call_s, block)
            host = _host(call, protocol, call_s)
            kept = call(0)
            torch.cuda.synchronize()
            return _sustained(call, protocol, block, call_s, sensor, burst, host, kept)
    finally:
        torch.cuda.synchronize()
        gc.enable()


def _warm_up(call: Timeable, protocol: Protocol) -> float:
    """Call and wait until stable; return the median seconds of the last calls."""
    least_s = WARMUP_FACTOR * protocol.warmup_s
    cap_s = max(protocol.warmup_cap_s, least_s)
    seconds: list[float] = []
    start = time.perf_counter_ns()
    while True:
        seconds.append(_waited(call, len(seconds)))
        spent = (time.perf_counter_ns() - start) * 1e-9
        if len(seconds) >= _LEAST_WARMUP_CALLS and (
            spent >= cap_s or (spent >= least_s and is_stable(seconds))
        ):
            return max(statistics.median(seconds[-_LEAST_WARMUP_CALLS:]), 1e-6)


def _waited(call: Timeable, index: int) -> float:
    before = time.perf_counter_ns()
    result = call(index)
    torch.cuda.synchronize()
    now = time.perf_counter_ns()
    del result
    return (now - before) * 1e-9


@dataclass(frozen=True, slots=True)
class _Queue:
    """Blocks of calls that were issued together."""

    device_s: list[float]
    """Device time of one call, a sample a block."""
    issued_s: float
    """Host time of issuing one call of the first block, while nothing else was in the queue."""


def _queued(call: Timeable, first: int, samples: int, block: int, sleep_s: float) -> _Queue:
    """Queue `samples` blocks behind a sleeping kernel, and wait once."""
    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(samples)
    ]
    torch.cuda._sleep(int(sleep_s * _SLEEP_CYCLES_PER_S))  # pyright: ignore[reportPrivateUsage] - no public one
    index, issued = first, 0
    start = time.perf_counter_ns()
    for begin, end in pairs:
        begin.record()
        for _ in range(block):
            call(index)
            index += 1
        end.record()
        issued = issued or time.perf_counter_ns() - start
    torch.cuda.synchronize()
    device = [begin.elapsed_time(end) * 1e-3 / block for begin, end in pairs]
    return _Queue(device, issued * 1e-9 / block)


@dataclass(frozen=True, slots=True)
class _Burst:
    """What was timed right after warm-up."""

    device_s: tuple[float, ...]
    issued_s: tuple[float, ...]
    spent_s: float


def _burst(call: Timeable, protocol: Protocol, call_s: float, block: int) -> _Burst:
    seconds: list[float] = []
    issued: list[float] = []
    spent = 0.0
    while True:
        ahead_s = min(_LONGEST_SLEEP_S, _SAMPLES_A_BLOCK * block * call_s)
        some = _queued(call, len(seconds) * block, _SAMPLES_A_BLOCK, block, ahead_s)
        seconds += some.device_s
        issued.append(some.issued_s)
        spent += sum(some.device_s) * block
        enough = spent >= protocol.sample_s and len(seconds) >= protocol.least_samples
        if enough or len(seconds) >= protocol.most_samples or spent >= protocol.sample_cap_s:
            return _Burst(tuple(seconds[: protocol.most_samples]), tuple(issued), spent)


def _host(call: Timeable, protocol: Protocol, call_s: float) -> tuple[float, ...]:
    wanted = min(
        protocol.most_samples, max(protocol.least_samples, int(protocol.sample_s / call_s))
    )
    return tuple(_waited(call, index) for index in range(wanted))


def _sustained(
    call: Timeable,
    protocol: Protocol,
    block: int,
    call_s: float,
    sensor: Sensor | str,
    burst: _Burst,
    host: tuple[float, ...],
    kept: Outputs,
) -> DeviceTimed:
    """Run back to back for `sample_cap_s`; sensors are read between blocks, never inside."""
    samples = max(1, round(_SUSTAINED_BLOCK_S / (block * call_s)))
    readings: list[Reading] = []
    series: list[float] = []
    before = None if isinstance(sensor, str) else sensor.energy_j()
    start = time.perf_counter_ns()
    while (time.perf_counter_ns() - start) * 1e-9 < protocol.sample_cap_s:
        series += _queued(call, len(series) * block, samples, block, _SHORT_SLEEP_S).device_s
        if not isinstance(sensor, str):
            readings.append(sensor.read())
    after = None if isinstance(sensor, str) else sensor.energy_j()
    late = series[len(series) // 2 :]
    energy = None if before is None or after is None else (after - before) / (len(series) * block)
    return DeviceTimed(
        burst_s=burst.device_s,
        issued_s=burst.issued_s,
        host_s=host,
        sustained_s=_spread(late, protocol.most_samples),
        energy_j=energy,
        readings=_spread(readings, protocol.most_samples),
        no_sensor=sensor if isinstance(sensor, str) else None,
        spent_s=burst.spent_s + sum(host) + sum(series) * block,
        kept=kept,
    )


def _spread(values: Sequence[T], most: int) -> tuple[T, ...]:
    """At most `most` of the values, spread evenly."""
    return tuple(values[:: max(1, -(-len(values) // most))])


class _Replay:
    """A CUDA graph that holds one call on each input set, as something that can be timed."""

    sets = 1

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self.graph = graph

    def __call__(self, index: int) -> Outputs:  # noqa: ARG002 - all input sets are in the graph
        """Run the graph once."""
        self.graph.replay()
        return ()

    def mode(self) -> AbstractContextManager[None]:
        """Nothing is held open."""
        return nullcontext()


def time_graph(call: Timeable, protocol: Protocol) -> tuple[float, ...]:
    """Return device times of one call without its launches: a CUDA graph of it, replayed.

    The graph holds a call on each input set, so that each finds the cache cold, as elsewhere. A
    capture that fails leaves torch's allocator unable to free its cache in this process: nothing
    that asks for memory may be measured after it (`worker.tidied`).

    Raises:
        NotMeasurable: the call cannot be captured: it waits for the device, or copies from memory
            that is not pinned.
    """
    try:
        with call.mode():
            graph = _captured(call)
    except RuntimeError as failure:
        # what ends a failed capture raises an error of its own, which says nothing of the reason
        first = str(failure.__context__ or failure).splitlines()[0]
        raise NotMeasurable(f"not captured as a CUDA graph: {first}") from failure
    replay = _Replay(graph)
    replay_s = max(_waited(replay, 0), _waited(replay, 0), 1e-6)
    seconds: list[float] = []
    spent = 0.0
    while spent < protocol.sample_s or len(seconds) < protocol.least_samples:
        some = _queued(replay, 0, _SAMPLES_A_BLOCK, 1, min(_LONGEST_SLEEP_S, replay_s)).device_s
        seconds += some
        spent += sum(some)
        if len(seconds) >= protocol.most_samples or spent >= protocol.sample_cap_s:
            break
    return tuple(s / call.sets for s in seconds[: protocol.most_samples])


def _captured(call: Timeable) -> torch.cuda.CUDAGraph:
    """Capture one call on each input set, warmed up on a stream of its own as capturing needs."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for index in range(_LEAST_WARMUP_CALLS):
            call(index)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(call.sets):
            call(index)
    return graph
