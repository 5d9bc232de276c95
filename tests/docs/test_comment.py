"""The comment under a pull request: what it says, and that nothing of a stranger's acts in it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_pages import PAYLOADS

from bench.comment import LARGEST_REPORT_BYTES, MARK, ReportError, code, comment

ROOT = Path(__file__).parents[2]
HOSTILE = (
    *PAYLOADS, "@everyone", "![x](https://example.org/x.png)", "[x](javascript:alert(1))", "`",
    "``", "a|b|c",
    "\n\n# heading", "<!-- x -->", "https://example.org", "\\`", "\u202e", "\r\n::error::",
)  # fmt: skip


def report(**changes: Any) -> bytes:
    whole: dict[str, Any] = {
        "format": 1,
        "base": "0" * 40,
        "refused": 0,
        "counts": {"flag": 2},
        "findings": [
            {"rule": "R503", "severity": "flag", "path": "m/r/softmax.json", "message": "noisy"}
        ],
        "runs": [
            {"folder": "m/r", "submitted_by": "alice", "plan": "quick",
             "outcomes": {"ok": 12, "out_of_memory": 1}, "tiers": {"reproducible": 13}}
        ],
    }  # fmt: skip
    return json.dumps({**whole, **changes}).encode()


def test_it_says_what_is_added_and_found() -> None:
    text = comment(report())
    assert text.startswith(f"{MARK}\n")
    assert "| `m/r` | `alice` | `quick` | `12 ok, 1 out of memory` | `13 reproducible` |" in text
    assert "Accepted by every rule that blocks." in text
    assert "Other findings: 2 flag." in text
    assert "| `R503` | `flag` | `m/r/softmax.json` | `noisy` |" in text
    assert "Not accepted: 3 errors" in comment(report(counts={"error": 3}))
    assert "No run is added." in comment(report(runs=[]))


def unquoted(text: str) -> str:
    """What stands outside of code."""
    return re.sub(r"`[^`\n]*`", "", text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_strangers_text_is_only_ever_code(text: str) -> None:
    finding = {"rule": text, "severity": text, "path": text, "message": text}
    run = {"folder": text, "submitted_by": text, "plan": text, "outcomes": {text: 1},
           "tiers": {text: 1}}  # fmt: skip
    shown = comment(report(findings=[finding], runs=[run]))
    clean = comment(report())
    assert shown.count("\n") == clean.count("\n")
    rest = unquoted(shown).removeprefix(MARK)
    assert not re.search(r"[<@!\[\]]|https?:|javascript", rest)
    assert all(line.count("|") in (0, 5, 6) for line in shown.splitlines())


def test_the_check_above_sees_a_text_that_is_not_code() -> None:
    assert re.search(r"[<@]", unquoted("| @everyone `x` |"))


def test_long_texts_are_cut() -> None:
    assert len(code("x" * 10**6)) < 400
    many = [{"rule": "R1", "severity": "flag", "path": "p", "message": "m"}] * 1000
    assert "960 more are in the log" in comment(report(findings=many))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b" " * (LARGEST_REPORT_BYTES + 1),
     report(format=2), report(runs={}), report(runs=[1]), report(counts={"error": "0"}),
     report(counts={"x": 1}), report(counts={"error": True}), report(findings=[{"rule": 1}])],
)  # fmt: skip
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(ReportError):
        comment(data)


def test_the_job_needs_nothing_but_python(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(report())
    command = [sys.executable, "-S", "-m", "bench.comment", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == comment(report())
    path.write_bytes(b"{}")
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 1
