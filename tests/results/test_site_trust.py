"""Tiers and findings on the pages: a word on the row, the reasons on the result's page."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from leaderboard.build import build
from results_in_memory import run_with_latency
from sample_site import catalogue

from bench.environment import hardware_id
from bench.model import Ok, Record
from bench.submission import StoredRun, write_run
from bench.table import LeaderboardTable
from bench.tabulation import load_table
from bench.tier import TIERS, Finding, Trust

ROW = "softmax/reference/layer/b1/32x32/h3d64/float32/forward#"


def run(account: str, factor: float, day: str) -> StoredRun:
    """A run of the synthetic machine under the id that it really has."""
    stored = measured_once(run_with_latency(factor, day))
    machine = stored.run.environment
    slug = hardware_id("cpu", machine.device_name, machine.cpu_count, machine.device_memory_bytes)
    header = replace(
        stored.run, submitted_by=account, environment=replace(machine, hardware_id=slug)
    )
    return replace(stored, run=header)


def measured_once(stored: StoredRun) -> StoredRun:
    """The run without the cold times, which no factor scales: two runs would hold the same."""

    def change(record: Record) -> Record:
        if not isinstance(record.outcome, Ok):
            return record
        kept = tuple(m for m in record.outcome.measurements if m.metric != "latency_cold")
        return replace(record, outcome=replace(record.outcome, measurements=kept))

    (file,) = stored.files
    return replace(stored, files=(replace(file, records=tuple(map(change, file.records))),))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LeaderboardTable:
    root = tmp_path_factory.mktemp("results")
    for stored in (run("alice", 1.02, "2026-01-02"), run("bob", 1.0, "2026-02-02")):
        write_run(root, stored.run, stored.files)
    return load_table(root, catalogue(), judge=True)


def with_trust(table: LeaderboardTable, **changes: object) -> LeaderboardTable:
    """The table with another judgement about ROW, on its rows as well."""
    judged: dict[tuple[str, str], Trust] = dict(table.trust or {})
    rows = table.rows.copy()
    for key, found in judged.items():
        if key[1].startswith(ROW):
            judged[key] = replace(found, **changes)
            mine = (rows["run_id"] == key[0]) & (rows["case_id"] == key[1])
            rows.loc[mine, "tier"] = judged[key].tier
            rows.loc[mine, "reproductions"] = len(judged[key].agreeing)
            rows.loc[mine, "contradictions"] = len(judged[key].differing)
    return replace(table, rows=rows, trust=judged)


def pages(table: LeaderboardTable, out: Path) -> dict[str, str]:
    site = build(table, out)
    return {
        f.path: (out / f.path).read_text("utf-8") for f in site.files if f.path.endswith("html")
    }


def ranking(found: dict[str, str]) -> str:
    (path,) = (p for p in found if p.endswith("float32-forward-layer-one-h3d64/512px.html"))
    return found[path]


def result(found: dict[str, str]) -> str:
    return "".join(text for path, text in found.items() if path.startswith("results/"))


def test_rows_of_the_table_carry_the_judgement(table: LeaderboardTable) -> None:
    rows = table.rows[table.rows["case_id"].str.startswith(ROW)]
    assert set(rows["tier"]) == {"self-reported"}  # the sample's commit is in no history
    assert set(rows["reproductions"]) == {0}  # open review R312: such a run confirms nothing
    assert rows["findings"].str.contains("R312").all()


def test_pages_say_the_tier_and_why(table: LeaderboardTable, tmp_path: Path) -> None:
    found = pages(with_trust(table, agreeing=("alice",)), tmp_path / "site")
    assert ">self-reported</span>" in ranking(found)
    assert ">Trust</span>" in ranking(found)
    assert "is not in the history that is at hand here" in result(found)
    assert "Agreeing: alice." in result(found)
    assert "What the rules found" in found["flags.html"]
    assert "R312" in found["flags.html"]
    assert all(f"<strong>{tier}</strong>" in found["methodology.html"] for tier in TIERS)


def test_each_tier_is_a_word_that_sorts_and_can_be_filtered(
    table: LeaderboardTable, tmp_path: Path
) -> None:
    order: list[float] = []
    for tier in TIERS:
        found = pages(with_trust(table, tier=tier, agreeing=("bob",)), tmp_path / tier)
        (cell, *_) = re.findall(r'data-order="(\d+)"><span class="badge [a-z]+" title="[^"]+">'
                             rf"({re.escape(tier)}[^<]*)<", ranking(found))  # fmt: skip
        order.append(float(cell[0]))
        assert ("\u00d71" in cell[1]) == (tier == "reproduced")
    assert order == sorted(order)


def test_what_a_rule_found_about_a_row_is_a_badge(table: LeaderboardTable, tmp_path: Path) -> None:
    assert ">R999<" not in ranking(pages(table, tmp_path / "without"))
    case_id = next(c for c in table.rows["case_id"] if c.startswith(ROW))
    finding = Finding(
        rule="R999", severity="flag", path="x", case_ids=(case_id,),
        message=f"records.0 ({case_id}): planted words",
    )  # fmt: skip
    found = pages(with_trust(table, findings=(finding,)), tmp_path / "with")
    assert 'flags.html#R999" title="flag R999: planted words">R999</a>' in ranking(found)
    assert "flag R999: planted words" in result(found)


def test_what_differs_is_said(table: LeaderboardTable, tmp_path: Path) -> None:
    found = pages(with_trust(table, differing=("carol", "dan")), tmp_path / "site")
    assert "2 other accounts got something else." in ranking(found)
    assert "Differing: carol, dan." in result(found)


def test_without_a_judgement_pages_claim_nothing(tmp_path: Path) -> None:
    stored = run("alice", 1.0, "2026-01-02")
    write_run(tmp_path / "results", stored.run, stored.files)
    table = load_table(tmp_path / "results", catalogue())
    assert table.rows["tier"].isna().all()
    found = pages(table, tmp_path / "site")
    assert ">Trust</span>" not in ranking(found)
    assert "How far it can be trusted" not in result(found)
