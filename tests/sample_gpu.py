"""The synthetic run as an H200 would give it: invented, but of the size of what it promises."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from sample_run import ROUNDS, SAMPLE, sample_header, sample_records

from bench.environment import hardware_id
from bench.model import (
    Ceiling,
    Measured,
    Measurement,
    Ok,
    Record,
    RepeatedCase,
    Unavailable,
    Workload,
)
from bench.peaks import KNOWN_PEAKS
from bench.submission import StoredRun, identified

NAME = "NVIDIA H200"
FASTER = 50
"""Times as fast as the CPU of the sample."""
_OF_A_CPU = ("latency_cold", "page_faults", "energy")


@cache
def gpu_sample() -> StoredRun:
    """A run on one GPU: every rule holds, but it is of no plan."""
    header, peak = sample_header(), KNOWN_PEAKS[NAME]
    environment = replace(
        header.environment,
        hardware_id=hardware_id("cuda", NAME, 16, 150_109_880_320),
        device="cuda",
        device_name=NAME,
        device_memory_bytes=150_109_880_320,
        cpu_count=16,
        threads=16,
        settings={"float32_matmul_precision": "highest"},
        cuda="13.0",
        driver="580.65.06",
        cudnn="91300",
        compute_capability="9.0",
        multiprocessors=132,
        power_limit_w=700.0,
        clock_max_hz=1.98e9,
    )
    rates = {
        "matmul_float32": ("flop/s", 0.8 * peak.float32_flop_s),
        "matmul_bfloat16": ("flop/s", 0.8 * peak.half_flop_s),
        "matmul_float16": ("flop/s", 0.8 * peak.half_flop_s),
        "copy_bandwidth": ("byte/s", 0.9 * peak.bandwidth_byte_s),
        "exp_rate": ("op/s", 4e12),
        "call_overhead": ("s", 2.5e-6),
    }
    ceilings = tuple(
        Ceiling(name=name, unit=unit, samples=(best, 1.01 * best), detail=SAMPLE)
        for name, (unit, best) in rates.items()
    )
    conditions = header.conditions
    assert conditions.drift is not None
    conditions = replace(
        conditions,
        drift=_faster(conditions.drift),
        noise=tuple(map(_faster, conditions.noise)),
    )
    files = tuple(
        replace(file, records=tuple(map(_record, file.records))) for file in sample_records()
    )
    run, named = identified(
        replace(header, environment=environment, ceilings=ceilings, conditions=conditions), files
    )
    return StoredRun(run=run, files=named, folder=Path("sample"))


def _faster(repeated: RepeatedCase) -> RepeatedCase:
    rounds = tuple(tuple(s / FASTER for s in visits) for visits in repeated.latencies_s)
    return replace(repeated, latencies_s=rounds)


def _record(record: Record) -> Record:
    outcome = record.outcome
    if not isinstance(outcome, Ok) or not isinstance(record.case.stimulus, Workload):
        return record
    kept: list[Measurement] = [m for m in outcome.measurements if m.metric not in _OF_A_CPU]
    found = [_scaled(m, 1 / FASTER) if m.metric == "latency" else m for m in kept]
    (latency,) = (m for m in found if isinstance(m, Measured) and m.metric == "latency")
    sustained = replace(_scaled(latency, 1.04), metric="latency_sustained")
    found += [
        sustained,
        replace(_scaled(latency, 1.2), metric="host_latency"),
        Measured(
            metric="energy", rounds=tuple((sum(r) / len(r) * 520.0,) for r in sustained.rounds)
        ),
        _sensed("power", 505.0, 530.0),
        _sensed("clock", 1.83e9, 1.905e9),
        _sensed("temperature", 52.0, 58.0),
        _sensed("throttled", 0.0, 0.0),
        _sensed("launch_bound", 0.0, 1.0),
        Unavailable(metric="latency_graph", reasons=(SAMPLE,)),
    ]
    measurements = tuple(sorted(found, key=lambda m: m.metric))
    return replace(record, outcome=replace(outcome, measurements=measurements))


def _scaled(measurement: Measurement, factor: float) -> Measured:
    assert isinstance(measurement, Measured)
    rounds = tuple(tuple(factor * s for s in r) for r in measurement.rounds)
    return replace(measurement, rounds=rounds)


def _sensed(metric: str, *readings: float) -> Measured:
    return Measured(metric=metric, rounds=(readings,) * ROUNDS)
