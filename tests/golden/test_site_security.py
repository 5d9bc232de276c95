"""Strings of contributors can be hostile; none may become markup, script or a script address."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_pages import PAYLOADS, Faults
from leaderboard.blocks import Formula
from leaderboard.build import Site, build
from leaderboard.csvfile import csv_text
from leaderboard.mathematics import formula
from leaderboard.rendering import web_address
from sample_site import sample_table, write_site_sample

from bench.table import LeaderboardTable, Refused, ReportedNumber

HOSTILE = " ".join(PAYLOADS)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LeaderboardTable:
    return sample_table(write_site_sample(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def site(table: LeaderboardTable, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return build(hostile(table), tmp_path_factory.mktemp("built") / "site")


def hostile(table: LeaderboardTable) -> LeaderboardTable:
    """The same table with every free text replaced."""
    rows = table.rows.copy()
    for column in ("executed", "options", "plan"):
        rows[column] = HOSTILE
    rows.loc[rows.outcome != "ok", "reason"] = HOSTILE
    rows.loc[rows.metric == "energy", "reason"] = HOSTILE
    variants = tuple(
        replace(
            v, title=HOSTILE, formula=PAYLOADS[n % len(PAYLOADS)], description=HOSTILE,
            deviations=PAYLOADS, scaling=HOSTILE, options={HOSTILE: HOSTILE},
            options_help={HOSTILE: HOSTILE}, uncounted=HOSTILE, source=HOSTILE,
            traits={**v.traits, HOSTILE: True},
            paper=replace(
                v.paper, title=HOSTILE, authors=PAYLOADS, venue=HOSTILE, equation=HOSTILE,
                url="javascript:alert(1)", code="JavaScript:alert(2) at commit",
            ),
            backends=tuple(replace(b, name=HOSTILE, title=HOSTILE) for b in v.backends),
        )
        for n, v in enumerate(table.variants)
    )  # fmt: skip
    return replace(
        table,
        rows=rows,
        variants=variants,
        columns=tuple(replace(c, title=HOSTILE, help=HOSTILE) for c in table.columns),
        tasks=tuple(replace(t, title=HOSTILE, help=HOSTILE) for t in table.tasks),
        refused=(Refused(path=HOSTILE, reason=HOSTILE),),
        reported=(
            ReportedNumber(
                paper="p", variant="softmax", model=HOSTILE, resolution_px=224, quantity="macs",
                value=1e9, unit="mac", from_plot=True, table=HOSTILE,
                url="data:text/html,<script>alert(1)</script>", note=HOSTILE,
            ),
        ),
    )  # fmt: skip


def test_no_payload_becomes_markup(site: Site) -> None:
    seen = 0
    for file in site.files:
        if not file.path.endswith(".html"):
            continue
        text = (site.out / file.path).read_text("utf-8")
        assert Faults(text).found == [], file.path
        for payload in PAYLOADS:
            if "<" in payload:
                assert payload not in text, file.path
        assert "zq9x7" not in text, file.path
        seen += text.count("&lt;img src=x onerror=alert(3)&gt;")
    assert seen > 100, "the payloads must have reached the pages, escaped"


@pytest.mark.parametrize("payload", PAYLOADS[:5])
def test_the_checker_sees_an_unescaped_payload(payload: str) -> None:
    assert Faults(f"<p title='{payload}'>{payload}</p><a href=\"x{payload}\">").found


def test_figure_data_cannot_end_their_script(site: Site) -> None:
    text = (site.out / "scaling.html").read_text("utf-8")
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    assert blocks
    for block in blocks:
        assert "<" not in block
        drawing = json.loads(block)
        for trace in drawing["data"]:
            # plotly reads its texts as markup of its own
            assert "<" not in trace.get("name", "")


def test_formulas_are_mathml_or_text(site: Site) -> None:
    for n in range(5):
        found = formula(PAYLOADS[n])
        assert isinstance(found, Formula)
        assert found.latex == PAYLOADS[n]
    assert len(formula(r"\frac{a}{b}").lines) == 1
    assert formula(r"\frac{a}{").lines == ()


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", " JaVaScRiPt:alert(1)", "data:text/html,x", "//evil.example",
     "vbscript:x", "java\nscript:alert(1)", "https:", "ftp://x.example", "\x01javascript:alert(1)"],
)  # fmt: skip
def test_script_addresses_are_no_links(address: str) -> None:
    assert web_address(address) is None


def test_web_addresses_are_links() -> None:
    assert web_address("https://arxiv.org/abs/1706.03762") == "https://arxiv.org/abs/1706.03762"


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1+cmd", "@SUM(A1)", "\t=1"])
def test_csv_texts_are_no_formulas(value: str) -> None:
    assert csv_text(("a",), [(value,)]).splitlines()[1].lstrip('"').startswith("'")


def test_csv_numbers_stay_numbers() -> None:
    assert csv_text(("a", "b"), [(-1.5, None)]) == "a,b\r\n-1.5,\r\n"


def test_hostile_site_is_deterministic(table: LeaderboardTable, site: Site, tmp_path: Path) -> None:
    assert build(hostile(table), tmp_path / "again").files == site.files
