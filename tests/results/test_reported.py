"""Numbers of papers: complete with source, in base units, never taken for measured ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from attention_impls.registry import names
from bench.reported import UNITS, read_reported

FOLDER = Path(__file__).parents[2] / "results" / "reported"


def number(**changes: Any) -> dict[str, Any]:
    return {
        "variant": "softmax", "model": "M", "resolution_px": 224, "quantity": "imagenet1k_top1",
        "value": 0.7, "table": "Table 1", "url": "https://example.org/paper", **changes,
    }  # fmt: skip


def report(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1, "paper": "paper", "title": "T", "year": 2024,
        "url": "https://example.org/paper", "numbers": [number()], **changes,
    }  # fmt: skip


def read(folder: Path, document: Any, name: str = "paper.json") -> tuple[int, str]:
    (folder / name).write_text(json.dumps(document))
    numbers, refused = read_reported(folder)
    return len(numbers), refused[0].reason if refused else ""


def test_committed_numbers_are_good() -> None:
    numbers, refused = read_reported(FOLDER)
    assert refused == ()
    assert {n.paper for n in numbers} == {
        "agent", "cswin", "deit", "flatten", "inline", "mila", "polaformer", "pvt", "pvt_v2",
        "rala", "soft", "swin",
    }  # fmt: skip
    assert {n.variant for n in numbers} <= set(names())
    for n in numbers:
        low, high = {
            "count": (3e6, 2e8), "mac": (5e8, 5e10), "fraction": (0.6, 0.9), "image/s": (10, 1000),
            "ratio": (1, 10), "byte": (1e9, 1e11),
        }[n.unit]  # fmt: skip
        assert low <= n.value <= high, n
        assert n.unit == UNITS[n.quantity]


def test_known_figures() -> None:
    numbers, _ = read_reported(FOLDER)
    found = {(n.variant, n.model, n.resolution_px, n.quantity): n.value for n in numbers}
    assert found["inline", "InLine-DeiT-T", 224, "imagenet1k_top1"] == 0.745
    assert found["focused_linear", "FLatten-Swin-T", 224, "macs"] == 4.5e9
    assert found["soft", "SOFT-Tiny", 224, "parameters"] == 13e6
    assert found["soft_norm", "SOFT-Huge-norm", 224, "imagenet1k_top1"] == 0.834
    assert found["inline", "InLine-DeiT-T", 1024, "speedup"] == 4.8
    assert found["inline", "InLine-DeiT-T", 224, "code_macs"] == 1113883584
    assert found["inline", "InLine-DeiT-T", 224, "code_contractions"] == 1109155584


def test_a_good_report_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, report()) == (1, "")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (report(paper="other"), "the file is named"),
        (report(numbers=[]), "numbers"),
        (report(numbers=[number(), number()]), "occurs twice"),
        (report(numbers=[number(model="B"), number(model="A")]), "not sorted"),
        (report(numbers=[number(value=74.5)]), "allowed 0..1"),
        (report(numbers=[number(url="http://example.org")]), "url"),
        (report(numbers=[number(url="javascript:alert(1)")]), "url"),
        (report(numbers=[number(table="<b>")]), "table"),
        (report(numbers=[number(value=None)]), "value"),
        (report(numbers=[number(quantity="latency")]), "quantity"),
        (report(extra=1), "extra"),
        ([], "Report"),
    ],
)
def test_bad_reports_are_refused(tmp_path: Path, document: Any, reason: str) -> None:
    count, found = read(tmp_path, document)
    assert count == 0
    assert reason in found or reason == "Report"
    assert found


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert read(tmp_path, report(), name="paper.txt")[1] == "is not a plain .json file"
    assert read_reported(tmp_path / "nowhere") == ((), ())
