"""Results in the forms of other tools, read back by those tools."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sample_run import write_sample

from attention_impls.registry import UnknownName
from bench.export import csv_text, exported
from bench.table import ROW_TYPES
from bench.tabulation import load_table


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    write_sample(root, variants=("softmax",))
    write_sample(root, variants=("softmax", "inline"), created="2026-02-02T03:04:05Z")
    return root


def test_csv_reads_back(root: Path) -> None:
    read = list(csv.DictReader(io.StringIO(exported(root, None, "csv"))))
    rows = load_table(root).rows
    assert len(read) == len(rows)
    assert list(read[0]) == list(ROW_TYPES)
    latency = rows[rows["metric"] == "latency"]["value"].tolist()
    assert [float(r["value"]) for r in read if r["metric"] == "latency"] == latency
    assert {r["value"] for r in read if r["outcome"] != "ok"} == {""}


def test_text_that_a_spreadsheet_would_run_is_quoted(root: Path) -> None:
    frame = load_table(root).rows.head(5).copy()
    frame["executed"] = ["=1+1", "+1", "-1", "@x", "plain"]
    read = list(csv.DictReader(io.StringIO(csv_text(frame))))
    assert [r["executed"] for r in read] == ["'=1+1", "'+1", "'-1", "'@x", "plain"]


def test_one_run_may_be_an_old_one(root: Path) -> None:
    old = next(p.name for p in (root / "sample-cpu").iterdir() if p.name.startswith("20260102"))
    read = list(csv.DictReader(io.StringIO(exported(root, "20260102", "csv"))))
    assert {r["run_id"] for r in read} == {old}


def test_json_reads_back(root: Path) -> None:
    document = json.loads(exported(root, None, "json"))
    columns = document["columns"]
    assert list(columns) == list(ROW_TYPES)
    assert len({len(values) for values in columns.values()}) == 1
    assert None in columns["value"]
    assert {m for m in columns["metric"] if m} <= {m["name"] for m in document["metrics"]}


def test_pytest_benchmark_compares_two_runs(root: Path, tmp_path: Path) -> None:
    for name, run in (("0001_old", "20260102"), ("0002_new", "20260202")):
        (tmp_path / f"{name}.json").write_text(exported(root, run, "pytest-benchmark"))
    code = "import sys; from pytest_benchmark.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--storage", str(tmp_path), "compare", "0001", "0002"]
    done = subprocess.run(
        [*command, "--group-by", "fullname", "--columns", "min,median,iqr,outliers,ops,rounds"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    both = re.findall(
        r"softmax/reference/layer/b1/32x32\S*forward#\w+ \(000([12])_\w+\)", done.stdout
    )
    assert sorted(both) == ["1", "2"], done.stdout


def test_pytest_benchmark_statistics_are_its_own(root: Path) -> None:
    from pytest_benchmark.stats import Stats

    document = json.loads(exported(root, "20260202", "pytest-benchmark"))
    assert document["benchmarks"]
    for benchmark in document["benchmarks"]:
        theirs = Stats()
        for sample in benchmark["stats"]["data"]:
            theirs.update(sample)
        for field in (*theirs.fields, "data"):
            if field in ("q1", "q3", "iqr", "ld15iqr", "hd15iqr", "outliers", "iqr_outliers"):
                continue  # another definition of a quartile
            wanted = theirs.data if field == "data" else getattr(theirs, field)
            assert benchmark["stats"][field] == pytest.approx(wanted), field


@pytest.mark.parametrize(
    ("run", "form", "error", "words"),
    [
        (None, "pytest-benchmark", ValueError, "give its run id"),
        (None, "xml", ValueError, "allowed csv"),
        ("nowhere", "csv", UnknownName, "no run"),
        ("2026", "csv", ValueError, "2 runs begin with"),
    ],
)
def test_errors_say_what_to_do(
    root: Path, run: str | None, form: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        exported(root, run, form)


def test_a_slip_is_told_before_the_table_is_judged(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(*_: object, **__: object) -> None:
        raise AssertionError("the table was read, which takes long")

    monkeypatch.setattr("bench.export.load_table", judged)
    with pytest.raises(UnknownName, match="no run 'nothing'"):
        exported(root, "nothing", "csv")
    with pytest.raises(ValueError, match="absent is not a folder"):
        exported(tmp_path / "absent", None, "csv")
