"""The only validator of results: `attnbench check`, used by contributors and by CI alike."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.rules import accuracy, across, identity, physics, receipts, statistics, status
from bench.rules.rule import Finding, ResultsUnderTest, RunRule, RunUnderTest, Severity, TreeRule
from bench.submission import StoredRun, read_results

__all__ = ["RUN_RULES", "TREE_RULES", "Finding", "Severity", "check_results", "check_run"]

RUN_RULES: tuple[RunRule, ...] = (
    *identity.RULES, *status.RULES, *physics.RULES, *statistics.RULES, *accuracy.RULES,
    *receipts.RULES,
)  # fmt: skip
TREE_RULES: tuple[TreeRule, ...] = across.RULES
_CLOCK_ERROR = timedelta(hours=24)
"""Clocks of contributors may be wrong by this much."""


def check_results(root: Path, paths: tuple[Path, ...] = ()) -> tuple[Finding, ...]:
    """Apply every rule to everything below the results folder `root`.

    Args:
        root: the results folder.
        paths: files or folders below it; findings elsewhere are left out. Empty: all.

    Raises:
        ValueError: `root` is no folder, or a path is not below it.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give the results folder")
    wanted = [_below(root, path) for path in paths]
    stored, refusals = read_results(root)
    results = ResultsUnderTest(
        root=root, runs=tuple(_under_test(one) for one in stored), refusals=refusals
    )
    findings = [finding for run in results.runs for finding in _findings(run)]
    for rule in TREE_RULES:
        findings += [
            Finding(rule=rule.id, severity=rule.severity, path=fault.file, message=fault.message)
            for fault in rule.find(results)
        ]
    kept = (f for f in findings if not paths or any(Path(f.path).is_relative_to(w) for w in wanted))
    return tuple(sorted(kept, key=lambda f: (f.path, f.rule, f.message)))


def check_run(stored: StoredRun) -> tuple[Finding, ...]:
    """Apply every rule about a single run."""
    return tuple(_findings(_under_test(stored)))


def _under_test(stored: StoredRun) -> RunUnderTest:
    latest = datetime.now(UTC) + _CLOCK_ERROR
    return RunUnderTest(stored=stored, now=latest.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _findings(run: RunUnderTest) -> list[Finding]:
    folder = f"{run.run.environment.hardware_id}/{run.run.run_id}"
    return [
        Finding(
            rule=rule.id,
            severity=rule.severity,
            path=f"{folder}/{fault.file}",
            message=fault.message,
        )
        for rule in RUN_RULES
        for fault in rule.find(run)
    ]


def _below(root: Path, path: Path) -> Path:
    try:
        return path.resolve().relative_to(root.resolve())
    except ValueError:
        raise ValueError(f"{path} is not below the results folder {root}") from None
