"""Synthetic runs in memory, with latencies of choice, for tests that compare runs."""

from dataclasses import replace
from pathlib import Path

from sample_run import noise_of, sample_header, sample_records

from bench.model import Measured, Ok, Record
from bench.submission import StoredRun, identified


def run_with_latency(factor: float, day: str) -> StoredRun:
    """The synthetic softmax run of `day` with every latency times `factor`."""
    (file,) = sample_records(("softmax",))
    changed = replace(file, records=tuple(scaled(record, factor) for record in file.records))
    header = noise_of(sample_header(created=f"{day}T03:04:05Z"), ("softmax",))
    run, files = identified(header, [changed])
    folder = Path(run.environment.hardware_id) / run.run_id
    return StoredRun(run=run, files=files, folder=folder)


def scaled(record: Record, factor: float) -> Record:
    """The record with its latency times `factor`; failures as they are."""
    if not isinstance(record.outcome, Ok):
        return record
    measurements = tuple(
        replace(m, rounds=tuple(tuple(factor * s for s in samples) for samples in m.rounds))
        if isinstance(m, Measured) and m.metric == "latency"
        else m
        for m in record.outcome.measurements
    )
    return replace(record, outcome=replace(record.outcome, measurements=measurements))
