"""The only validator of results: `attnbench check`, used by contributors and by CI alike."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.ledger import Ledger, ledger
from bench.rules import (
    accuracy,
    across,
    files,
    identity,
    limits,
    memory,
    physics,
    planned,
    receipts,
    statistics,
    status,
)
from bench.rules.rule import Fault, ResultsUnderTest, RunRule, RunUnderTest, TreeRule, one_line
from bench.rules.tree import Tree
from bench.submission import Refusal, StoredRun, read_results
from bench.tier import Finding

__all__ = ["RUN_RULES", "TREE_RULES", "check_results", "check_run", "check_stored"]

RUN_RULES: tuple[RunRule, ...] = (
    *identity.RULES, *status.RULES, *planned.RULES, *physics.RULES, *memory.RULES,
    *limits.RULES, *statistics.RULES, *accuracy.RULES, *receipts.RULES,
)  # fmt: skip
TREE_RULES: tuple[TreeRule, ...] = (*files.RULES, *across.RULES)
_CLOCK_ERROR = timedelta(hours=24)
"""Clocks of contributors may be wrong by this much."""


def check_results(
    root: Path,
    paths: tuple[Path, ...] = (),
    *,
    base: str | None = None,
    account: str | None = None,
) -> tuple[Finding, ...]:
    """Apply every rule to everything below the results folder `root`.

    Args:
        root: the results folder.
        paths: files or folders below it; findings elsewhere are left out. Empty: all.
        base: revision that results are only added to; None: the main branch, where there is one.
        account: who submits what is new; None: anybody.

    Raises:
        ValueError: `root` is no folder, a path is not below it, or `base` is no commit.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give the results folder")
    wanted = [_below(root, path) for path in paths]
    stored, refusals = read_results(root)
    findings = check_stored(
        root, stored, refusals, history=ledger(root, base), account=account, wanted=wanted
    )
    return tuple(
        f for f in findings if not paths or any(Path(f.path).is_relative_to(w) for w in wanted)
    )


def check_stored(
    root: Path,
    stored: Sequence[StoredRun],
    refusals: Sequence[Refusal],
    *,
    history: Ledger | None,
    account: str | None = None,
    wanted: Sequence[Path] = (),
) -> tuple[Finding, ...]:
    """Apply every rule to results that were read already; see `check_results`.

    Rules about single runs, which compute outputs again, are applied to those that have something
    in common with the paths `wanted`, relative to `root`; to all where there are none.
    """
    tree = Tree()
    results = ResultsUnderTest(
        root=root,
        runs=tuple(_under_test(one, tree) for one in stored),
        refusals=tuple(refusals),
        history=history,
        account=account,
    )
    judged = [run for run in results.runs if not wanted or _touches(Path(run.folder), wanted)]
    # what was computed about the records of a run is let go with it
    findings = [finding for run in judged for finding in _findings(replace(run))]
    for rule in TREE_RULES:
        findings += [_finding(rule, fault.file, fault) for fault in rule.find(results)]
    return tuple(sorted(findings, key=lambda f: (f.path, f.rule, f.message)))


def check_run(stored: StoredRun) -> tuple[Finding, ...]:
    """Apply every rule about a single run."""
    return tuple(_findings(_under_test(stored, Tree())))


def _under_test(stored: StoredRun, tree: Tree) -> RunUnderTest:
    latest = datetime.now(UTC) + _CLOCK_ERROR
    return RunUnderTest(stored=stored, now=latest.strftime("%Y-%m-%dT%H:%M:%SZ"), tree=tree)


def _findings(run: RunUnderTest) -> list[Finding]:
    return [
        _finding(rule, f"{run.folder}/{fault.file}", fault)
        for rule in RUN_RULES
        for fault in rule.find(run)
    ]


def _finding(rule: RunRule | TreeRule, path: str, fault: Fault) -> Finding:
    return Finding(
        rule=rule.id,
        severity=rule.severity,
        path=one_line(path),
        message=one_line(fault.message),
        case_ids=fault.case_ids,
    )


def _touches(folder: Path, wanted: Sequence[Path]) -> bool:
    return any(folder.is_relative_to(one) or one.is_relative_to(folder) for one in wanted)


def _below(root: Path, path: Path) -> Path:
    try:
        return path.resolve().relative_to(root.resolve())
    except ValueError:
        raise ValueError(f"{path} is not below the results folder {root}") from None
