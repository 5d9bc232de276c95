"""Every schema that was ever published still loads and still makes a table."""

import re
from pathlib import Path

import pytest

from bench.model import SCHEMA, Frontier, TaskRun, Workload
from bench.published import find_row
from bench.reproduce import repeat_plan
from bench.submission import read_results
from bench.tabulation import load_table

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.iterdir() if re.fullmatch(r"v\d+", path.name))


def test_every_schema_has_its_example() -> None:
    assert [f"v{n}" for n in range(1, SCHEMA + 1)] == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_it_loads_and_makes_a_table(version: str) -> None:
    stored, refusals = read_results(HERE / version)
    assert refusals == ()
    assert len(stored) == 1
    table = load_table(HERE / version)
    assert table.refused == ()
    assert set(table.rows["case_id"]) == {r.case.id for r in stored[0].records}
    assert (table.rows["metric"] == "latency").any()


@pytest.mark.parametrize("version", VERSIONS)
def test_it_holds_one_of_everything(version: str) -> None:
    ((stored,), _) = read_results(HERE / version)
    kinds = {record.outcome.kind for record in stored.records}
    assert len(kinds) == {"v1": 7, "v2": 8}[version]
    assert {type(r.case.stimulus) for r in stored.records} == {Workload, Frontier, TaskRun}


@pytest.mark.parametrize("version", VERSIONS)
def test_tasks_say_which_state_was_trained(version: str) -> None:
    ((stored,), _) = read_results(HERE / version)
    for record in stored.records:
        trained = isinstance(record.case.stimulus, TaskRun)
        assert (record.task is not None) == trained
        if record.task is not None:
            assert record.task.revision == 1
            assert (record.task.recipe_sha256 is None) == (version == "v1")
    rows = load_table(HERE / version).rows
    accuracy = rows[rows["metric"] == "accuracy"]
    assert set(accuracy["task_revision"]) == {1}
    assert accuracy["data_sha256"].isna().all() == (version == "v1")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_row_of_it_can_be_repeated(version: str) -> None:
    ((stored,), _) = read_results(HERE / version)
    case = stored.records[0].case
    assert repeat_plan(find_row(HERE / version, case.id)).cases == (case,)
