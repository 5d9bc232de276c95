"""Results in forms that other tools read: CSV, JSON, and the file of pytest-benchmark."""

import csv
import io
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import pandas

from bench.derived import quantile
from bench.model import Case, Images, Measured, Ok, Record, Workload, to_json
from bench.published import find_run
from bench.submission import StoredRun
from bench.table import ROW_TYPES, LeaderboardTable
from bench.tabulation import load_table

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_PYTEST_BENCHMARK = "5.1.0"
"""Version whose format is written."""


def exported(root: Path, run: str | None, form: str) -> str:
    """Return the whole table, or one run, as text.

    Args:
        root: the results folder.
        run: id of a run or the start of it; None for the newest rows of all runs.
        form: `csv`, `json` or `pytest-benchmark`.

    Raises:
        ValueError: no such folder, an unknown form, or `pytest-benchmark` without a run.
        UnknownName: no such run.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give the results folder")
    if run is not None:
        find_run(root, run)  # a slip is told at once: judging the table takes long
    match form:
        case "csv":
            return csv_text(_frame(load_table(root, judge=True), root, run))
        case "json":
            table = load_table(root, judge=True)
            return json_text(table, _frame(table, root, run))
        case "pytest-benchmark":
            if run is None:
                raise ValueError("the form pytest-benchmark holds one run: give its run id")
            return json.dumps(pytest_benchmark(find_run(root, run)), indent=1, allow_nan=False)
        case _:
            raise ValueError(f"form {form!r}: allowed csv, json, pytest-benchmark")


def _frame(table: LeaderboardTable, root: Path, run: str | None) -> pandas.DataFrame:
    if run is None:
        return table.rows
    run_id = find_run(root, run).run.run_id
    every = pandas.concat([table.rows, table.history], ignore_index=True)
    return every[every["run_id"] == run_id]


def csv_text(frame: pandas.DataFrame) -> str:
    """Return rows as CSV (RFC 4180); text that a spreadsheet would run as a formula is quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(ROW_TYPES)
    writer.writerows([_cell(value) for value in row] for row in _plain_rows(frame))
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return "" if value is None else value


def json_text(table: LeaderboardTable, frame: pandas.DataFrame) -> str:
    """Return rows as JSON by columns, with what each metric means; missing is null."""
    rows = _plain_rows(frame)
    document = {
        "licence": "CC-BY-4.0",
        "metrics": [
            {"name": c.name, "title": c.title, "unit": c.unit, "better": c.better, "help": c.help}
            for c in table.columns
        ],
        "columns": {name: [row[index] for row in rows] for index, name in enumerate(ROW_TYPES)},
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _plain_rows(frame: pandas.DataFrame) -> list[list[Any]]:
    """Rows as plain Python values in the order of ROW_TYPES; missing is None."""
    columns = [_plain_column(frame[name]) for name in ROW_TYPES]
    return [list(row) for row in zip(*columns, strict=True)]


def _plain_column(series: "pandas.Series[Any]") -> list[Any]:
    return [None if pandas.isna(value) else value for value in series.astype(object).tolist()]


# pytest-benchmark ---------------------------------------------------------------------------------


def pytest_benchmark(stored: StoredRun) -> dict[str, Any]:
    """Return a run as the document that `pytest-benchmark compare` reads.

    Each timed case is a benchmark, named by its case id, with all latency samples of all rounds
    pooled: that tool has no notion of rounds in new processes, so its spread is not our interval.
    """
    run, environment = stored.run, stored.run.environment
    timed = ((record, _samples(record, "latency")) for record in stored.records)
    return {
        "version": _PYTEST_BENCHMARK,
        "datetime": datetime.fromisoformat(run.created).astimezone(UTC).isoformat(),
        "machine_info": {
            "node": environment.hardware_id,
            "processor": environment.device_name,
            "machine": environment.device,
            "system": environment.os,
            "python_version": environment.python,
            "python_implementation": "CPython",
            "release": environment.os,
            "cpu": {"brand_raw": environment.cpu, "count": environment.cpu_count},
        },
        "commit_info": {"id": run.commit, "dirty": run.dirty, "time": run.created, "branch": None},
        "benchmarks": [_benchmark(record, samples) for record, samples in timed if samples],
    }


def _benchmark(record: Record, samples: list[float]) -> dict[str, Any]:
    case = record.case
    extra = {
        m.metric: _samples(record, m.metric)[0]
        for m in (record.outcome.measurements if isinstance(record.outcome, Ok) else ())
        if isinstance(m, Measured) and len(m.rounds) == 1 and len(m.rounds[0]) == 1
    }
    return {
        "group": _group(case),
        "name": case.id,
        "fullname": case.id,
        "params": {"variant": case.variant, "backend": case.backend, **to_json(case)["options"]},
        "param": case.variant,
        "extra_info": extra,
        "options": {"disable_gc": False, "timer": "perf_counter", "warmup": True},
        "stats": _stats(samples),
    }


def _group(case: Case) -> str:
    """What is compared with each other: everything but variant, backend and options."""
    match case.stimulus:
        case Workload() as w:
            batch = "largest" if w.batch is None else w.batch
            sizes = f"batch {batch} grid {w.grid.height}x{w.grid.width}"
            return f"{case.level} {sizes} {w.dtype} {w.passes}"
        case Images() as i:
            batch = "largest" if i.batch is None else i.batch
            return f"{i.backbone} batch {batch} {i.resolution_px} px {i.dtype} {i.passes}"
        case _:
            return f"{case.level} {case.stimulus.kind}"


def _stats(samples: list[float]) -> dict[str, Any]:
    ordered = sorted(samples)
    mean, deviation = fmean(ordered), stdev(ordered) if len(ordered) > 1 else 0.0
    q1, q3 = quantile(ordered, 0.25), quantile(ordered, 0.75)
    fence = 1.5 * (q3 - q1)
    beyond = sum(1 for s in ordered if abs(s - mean) > deviation)
    outside = sum(1 for s in ordered if not q1 - fence <= s <= q3 + fence)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": deviation,
        "median": median(ordered),
        "q1": q1,
        "q3": q3,
        "iqr": q3 - q1,
        "ld15iqr": next(s for s in ordered if s >= q1 - fence),
        "hd15iqr": next(s for s in reversed(ordered) if s <= q3 + fence),
        "iqr_outliers": outside,
        "stddev_outliers": beyond,
        "outliers": f"{beyond};{outside}",
        "ops": 1 / mean,
        "total": math.fsum(ordered),
        "rounds": len(ordered),
        "iterations": 1,
        "data": samples,
    }


def _samples(record: Record, metric: str) -> list[float]:
    if not isinstance(record.outcome, Ok):
        return []
    return [
        float(sample)
        for m in record.outcome.measurements
        if isinstance(m, Measured) and m.metric == metric
        for samples in m.rounds
        for sample in samples
    ]
