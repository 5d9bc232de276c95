"""results/ as one tidy table."""

import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas
import pytest
from results_in_memory import run_with_latency
from sample_run import sample_records, write_sample

from bench.catalogue import Catalogue, read_catalogue
from bench.derived import summary
from bench.model import Measured, Ok, Workload
from bench.submission import StoredRun, read_results
from bench.table import ROW_TYPES, LeaderboardTable
from bench.tabulation import load_table
from bench.task import task
from bench.tidy import frames

catalogue = cache(read_catalogue)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LeaderboardTable:
    root = tmp_path_factory.mktemp("results")
    write_sample(root)
    return load_table(root, catalogue())


def test_types_and_reading_need_no_torch() -> None:
    code = (
        "import sys, bench.table, bench.tidy, bench.derived, bench.curves, bench.roofline, "
        "bench.submission, bench.reported, bench.catalogue; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_columns_are_as_documented(table: LeaderboardTable) -> None:
    for frame in (table.rows, table.history):
        assert {name: str(kind) for name, kind in frame.dtypes.items()} == dict(ROW_TYPES)
    assert len(table.history) == 0


def test_one_row_a_case_and_metric(table: LeaderboardTable) -> None:
    assert not table.rows.duplicated(["run_id", "case_id", "metric"]).any()
    failed = table.rows[table.rows["outcome"] != "ok"]
    assert failed["metric"].isna().all()
    assert failed["reason"].notna().all()
    assert failed["value"].isna().all()
    assert set(failed["outcome"]) == {
        "incorrect", "unsupported", "out_of_memory", "timed_out", "crashed", "not_run",
    }  # fmt: skip


def test_every_record_is_in_the_table(table: LeaderboardTable) -> None:
    ids = {record.case.id for file in sample_records() for record in file.records}
    assert set(table.rows["case_id"]) == ids
    assert sum(table.runs[0].outcomes.values()) == len(ids)


def test_values_are_those_of_the_samples(table: LeaderboardTable) -> None:
    stored = read_results(table.root)[0][0]
    rows = table.rows.set_index(["case_id", "metric"])
    checked = 0
    for record in stored.records:
        for m in record.outcome.measurements if isinstance(record.outcome, Ok) else ():
            if not isinstance(m, Measured):
                continue
            row, wanted = rows.loc[(record.case.id, m.metric)], summary(m.rounds)
            assert row["value"] == wanted.value
            assert row["samples"] == wanted.samples
            assert (wanted.low is None) == pandas.isna(row["low"])
            checked += 1
    assert checked > 200


def test_unavailable_metrics_keep_their_reason(table: LeaderboardTable) -> None:
    energy = table.rows[table.rows["metric"] == "energy"]
    assert energy["value"].isna().all()
    assert set(energy["reason"]) == {"RAPL counters are not readable here"}


def test_derived_numbers_by_hand(table: LeaderboardTable) -> None:
    rows = table.rows[
        (table.rows["variant"] == "softmax")
        & (table.rows["backend"] == "reference")
        & (table.rows["level"] == "layer")
        & (table.rows["tokens"] == 1024)
    ]
    for passes, factor in (("forward", 1), ("forward_backward", 3)):
        of = rows[rows["passes"] == passes].set_index("metric")
        latency = of.loc["latency", "value"]
        assert of.loc["throughput", "value"] == pytest.approx(1024 / latency)
        assert of.loc["image_throughput", "value"] == pytest.approx(1 / latency)
        flops = 4 * 1024**2 * 192 + 8 * 1024 * 192**2
        assert of.loc["flops", "value"] == flops
        assert of.loc["flop_rate", "value"] == pytest.approx(factor * flops / latency)
        assert of.loc["efficiency", "value"] == pytest.approx(factor * flops / 2e11 / latency)
        assert of.loc["efficiency", "bound"] == "compute"
        assert of.loc["throughput", "low"] == pytest.approx(1024 / of.loc["latency", "high"])
        assert of.loc["throughput", "p10"] <= of.loc["throughput", "p90"]
    assert not table.rows["implausible"].any()


def stored(day: str = "2026-01-02", *, speed: float = 1.0) -> StoredRun:
    return run_with_latency(1 / speed, day)


def test_faster_than_the_machine_is_marked() -> None:
    rows, _ = frames([stored(speed=20.0)], catalogue())
    marked = set(rows[rows["implausible"]]["metric"])
    assert marked == {"latency", "throughput", "image_throughput", "flop_rate", "efficiency"}


def test_the_newest_run_of_a_case_wins_and_the_older_is_kept() -> None:
    old, new = stored("2026-01-02"), stored("2026-02-02", speed=2.0)
    for order in ([old, new], [new, old]):
        rows, history = frames(order, catalogue())
        assert set(rows["run_id"]) == {new.run.run_id}
        assert set(history["run_id"]) == {old.run.run_id}
        assert len(rows) == len(history)


def test_a_newer_partial_run_replaces_only_its_cases() -> None:
    old, new = stored("2026-01-02"), stored("2026-02-02")
    kept = tuple(r for r in new.files[0].records if not isinstance(r.case.stimulus, Workload))
    part = replace(new, files=(replace(new.files[0], records=kept),))
    rows, history = frames([old, part], catalogue())
    assert set(history["stimulus"]) == {"frontier", "task"}
    assert set(rows[rows["stimulus"] == "workload"]["run_id"]) == {old.run.run_id}


@pytest.mark.parametrize("what", ["revision", "protocol", "variant"])
def test_stale_rows_are_marked(what: str) -> None:
    run, known = stored(), catalogue()
    if what == "revision":
        newer = (replace(v, revision=v.revision + 1) for v in known.variants)
        known = replace(known, variants=tuple(newer))
    elif what == "variant":
        known = replace(known, variants=())
    else:
        protocol = replace(run.run.protocol, version=99)
        run = replace(run, run=replace(run.run, protocol=protocol))
    rows, _ = frames([run], known)
    assert rows["stale"].all()
    assert not frames([stored()], catalogue())[0]["stale"].any()


@pytest.mark.parametrize("what", ["revision", "recipe", "task", "nothing stated"])
def test_another_task_makes_its_rows_stale_and_no_others(what: str) -> None:
    run, known = stored(), catalogue()
    (digits,) = (t for t in known.tasks if t.name == "digits")
    if what == "revision":
        known = replace(known, tasks=(replace(digits, revision=2),))
    elif what == "recipe":
        known = replace(known, tasks=(replace(digits, recipe_sha256="0" * 64),))
    elif what == "task":
        known = replace(known, tasks=())
    else:
        files = tuple(
            replace(f, records=tuple(replace(r, task=None) for r in f.records)) for f in run.files
        )
        run = replace(run, files=files)
    rows, _ = frames([run], known)
    of_task = rows["stimulus"] == "task"
    assert rows[of_task]["stale"].all()
    assert not rows[~of_task]["stale"].any()


def test_a_task_row_says_what_was_trained_on_what() -> None:
    rows, _ = frames([stored()], catalogue())
    trained = rows[rows["stimulus"] == "task"]
    assert set(trained["task_revision"]) == {1}
    assert set(trained["recipe_sha256"]) == {task("digits").recipe_sha256}
    assert trained["data_sha256"].str.len().eq(64).all()
    assert rows[rows["stimulus"] != "task"]["recipe_sha256"].isna().all()


def test_unknown_metrics_are_named_not_shown(tmp_path: Path) -> None:
    write_sample(tmp_path)
    known = catalogue()
    fewer = replace(known, columns=tuple(c for c in known.columns if c.name != "latency"))
    table = load_table(tmp_path, fewer)
    assert "latency" not in set(table.rows["metric"].dropna())
    assert {r.reason for r in table.refused} == {
        "metric 'latency' is not in the tree: its numbers are not shown"
    }


def test_refused_files_are_in_the_table(tmp_path: Path) -> None:
    folder = write_sample(tmp_path)
    (folder / "softmax.json").write_text("{}")
    table = load_table(tmp_path, catalogue())
    assert len(table.rows) == 0
    assert [r.path for r in table.refused] == [f"sample-cpu/{folder.name}/softmax.json"]


def test_header_facts(table: LeaderboardTable) -> None:
    (entry,) = table.runs
    assert entry.folder == f"sample-cpu/{entry.run.run_id}"
    assert entry.duty == pytest.approx(0.6)
    assert entry.noise_floor is not None
    assert 0 < entry.noise_floor < 0.02
    assert entry.noise_floor_sequential is not None
    assert entry.drift is not None
    assert abs(entry.drift.change) < 0.02
    assert entry.ceilings["matmul_float32"] == 2e11
    (machine,) = table.machines
    assert machine.run_ids == (entry.run.run_id,)


def test_catalogue_describes_the_tree() -> None:
    known: Catalogue = catalogue()
    softmax = next(v for v in known.variants if v.name == "softmax")
    assert softmax.source == "attention_impls/variants/softmax.py"
    assert {b.name for b in softmax.backends} >= {"reference", "compile", "sdpa"}
    assert softmax.streams == 3
    assert next(v for v in known.variants if v.name == "soft").streams == 2
    for variant in known.variants:
        assert variant.description
        assert set(variant.options_help) == set(variant.options), variant.name
    columns = {c.name: c for c in known.columns}
    assert columns["latency"].varies
    assert columns["accuracy"].varies
    assert not columns["parameters"].varies
    assert columns["efficiency"].derived
    assert len(columns) == len(known.columns)
    assert {t.name for t in known.tasks if t.test_items == 360} == {"digits", "digits_fine_64"}


def test_no_results_give_an_empty_table(tmp_path: Path) -> None:
    table = load_table(tmp_path, catalogue())
    assert len(table.rows) == 0
    assert list(table.rows.columns) == list(ROW_TYPES)


def test_a_hundred_thousand_rows_in_seconds() -> None:
    """About 400 runs: 100,000 rows are made in a time that a page build does not notice."""
    one = stored()
    rows = len(frames([one], catalogue())[0])
    many = [
        replace(
            one,
            run=replace(
                one.run,
                run_id=f"run{n}",
                environment=replace(one.run.environment, hardware_id=f"machine{n}"),
            ),
        )
        for n in range(100_000 // rows + 1)
    ]
    start = time.process_time()
    frame, _ = frames(many, catalogue())
    assert len(frame) >= 100_000
    assert time.process_time() - start < 15
