"""The report of `attnbench check` as the comment on a pull request: `python -m bench.comment FILE`.

The report was made from a stranger's data, so it is validated again and every text of it stands in
code of bounded length: no mention, link, picture or HTML of theirs reaches the comment. Needs
nothing but Python, so that the job which may write comments installs nothing.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

MARK = "<!-- attnbench results -->"
"""First line of the comment: by it the job finds the one that it wrote before."""
LARGEST_REPORT_BYTES = 2**20
_SHOWN = 40
"""Findings in the comment; the log of the job has all."""
_WIDTH = 300
_FORMAT = 1
_SEVERITIES = ("error", "review", "flag")


class ReportError(ValueError):
    """The file is not a report as `attnbench check --report` writes it."""


def comment(data: bytes) -> str:
    """Return the Markdown of a report.

    Raises:
        ReportError: too large, not JSON, or not of the known form.
    """
    if len(data) > LARGEST_REPORT_BYTES:
        raise ReportError(f"{len(data)} bytes, allowed {LARGEST_REPORT_BYTES}")
    try:
        report = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"not JSON: {type(error).__name__}") from None
    if not isinstance(report, dict) or report.get("format") != _FORMAT:
        raise ReportError(f"not a report of format {_FORMAT}")
    counts = _numbers(report, "counts", _SEVERITIES)
    errors = counts.get("error", 0)
    lines = [MARK, "", "### Results", ""]
    lines.append(
        f"**Not accepted: {errors} errors.**" if errors else "Accepted by every rule that blocks."
    )
    others = [f"{counts[name]} {name}" for name in _SEVERITIES[1:] if counts.get(name)]
    if others:
        lines.append(f"Other findings: {', '.join(others)}.")
    runs = _objects(report, "runs")
    lines += ["", "| run | by | plan | cases | trust |", "| --- | --- | --- | --- | --- |"]
    lines += [_run_line(run) for run in runs[:_SHOWN]]
    if not runs:
        lines[-2:] = ["No run is added."]
    findings = _objects(report, "findings")
    if findings:
        lines += ["", "| rule | severity | where | what |", "| --- | --- | --- | --- |"]
        lines += [_finding_line(finding) for finding in findings[:_SHOWN]]
    if len(findings) > _SHOWN:
        lines += ["", f"{len(findings) - _SHOWN} more are in the log of the check."]
    lines += [
        "",
        (
            "Every rule has a page in `docs/rules/`. The rendered pages are an artifact of the "
            "check; `trust` is what the rows would get today."
        ),
    ]
    return "\n".join(lines) + "\n"


def _run_line(run: dict[str, Any]) -> str:
    outcomes = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in _counted(run, "outcomes"))
    tiers = ", ".join(f"{n} {tier}" for tier, n in _counted(run, "tiers"))
    cells = (_text(run, "folder"), _text(run, "submitted_by"), _text(run, "plan"))
    return f"| {' | '.join((*map(code, cells), code(outcomes), code(tiers)))} |"


def _finding_line(finding: dict[str, Any]) -> str:
    cells = (_text(finding, name) for name in ("rule", "severity", "path", "message"))
    return f"| {' | '.join(map(code, cells))} |"


def code(text: str) -> str:
    """Return a stranger's text as Markdown code in a table: nothing in it has a meaning."""
    plain = "".join(c if c.isprintable() else " " for c in text[:_WIDTH])
    if len(text) > _WIDTH:
        plain += "..."
    plain = re.sub(r"[`|\\]", "'", plain).strip()
    return f"`{plain}`" if plain else ""


def _objects(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = report.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ReportError(f"{name} is not a list of objects")
    return found


def _text(one: dict[str, Any], name: str) -> str:
    found = one.get(name)
    if not isinstance(found, str):
        raise ReportError(f"{name} is not a text")
    return found


def _counted(one: dict[str, Any], name: str) -> list[tuple[str, int]]:
    return sorted(_numbers(one, name, None).items())


def _numbers(one: dict[str, Any], name: str, allowed: tuple[str, ...] | None) -> dict[str, int]:
    found = one.get(name)
    if not isinstance(found, dict) or not all(
        type(number) is int and (allowed is None or key in allowed) for key, number in found.items()
    ):
        raise ReportError(f"{name} does not hold counts")
    return found


if __name__ == "__main__":
    try:
        sys.stdout.write(comment(Path(sys.argv[1]).read_bytes()))
    except ReportError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
