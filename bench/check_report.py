"""What `attnbench check` found, as JSON: read again by the job that comments on a pull request."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.ledger import Ledger, ledger
from bench.submission import StoredRun, read_results
from bench.tier import Finding, Trust
from bench.trust import Row, maintainers, sources_at_commits, trust

FORMAT = 1
"""Version of the report."""
MOST_FINDINGS = 200
"""Findings that are listed one by one; the counts have all."""


def write_report(path: Path, root: Path, findings: Sequence[Finding], base: str | None) -> None:
    """Write what was found in the results folder `root`, and what the branch adds."""
    path.write_text(json.dumps(report(root, findings, base), indent=1) + "\n", encoding="utf-8")


def report(root: Path, findings: Sequence[Finding], base: str | None) -> dict[str, Any]:
    """Return the report as plain JSON data."""
    history = ledger(root, base)
    stored, refusals = read_results(root)
    judged = trust(
        stored,
        findings,
        sources=sources_at_commits(root, stored, history),
        maintainers=maintainers(),
    )
    worst = sorted(findings, key=lambda f: ("error", "review", "flag").index(f.severity))
    return {
        "format": FORMAT,
        "base": None if history is None else history.base,
        "refused": len(refusals),
        "counts": dict(sorted(Counter(f.severity for f in findings).items())),
        "findings": [
            {"rule": f.rule, "severity": f.severity, "path": f.path, "message": f.message}
            for f in worst[:MOST_FINDINGS]
        ],
        "runs": [
            {
                "folder": _folder(one),
                "submitted_by": one.run.submitted_by,
                "plan": one.run.plan,
                "outcomes": dict(sorted(Counter(r.outcome.kind for r in one.records).items())),
                "tiers": dict(sorted(_tiers(one, judged).items())),
            }
            for one in stored
            if _is_added(history, one)
        ],
    }


def _tiers(stored: StoredRun, judged: Mapping[Row, Trust]) -> Counter[str]:
    return Counter(judged[stored.run.run_id, record.case.id].tier for record in stored.records)


def _folder(stored: StoredRun) -> str:
    return f"{stored.run.environment.hardware_id}/{stored.run.run_id}"


def _is_added(history: Ledger | None, stored: StoredRun) -> bool:
    return history is not None and history.is_new(_folder(stored))
