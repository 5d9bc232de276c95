"""What is said of a row: what rules found about it, and how far it can be trusted.

`rules` finds, `trust` judges, pages show.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "review", "flag"]
"""error: not accepted; review: a person must look; flag: accepted, and said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a rule found."""

    rule: str
    """Stable id, e.g. `R404`."""
    severity: Severity
    path: str
    """File or folder, relative to the results folder."""
    message: str
    """What, got, allowed, what to do; one printable line, see `one_line`."""
    case_ids: tuple[str, ...] = ()
    """The cases that it is about; empty: everything in the file or folder."""

    def __str__(self) -> str:
        return f"{self.path}: {self.severity} {self.rule}: {self.message}"


Tier = Literal["not accepted", "self-reported", "reproducible", "reproduced", "maintainer-verified"]
TIERS: Mapping[Tier, str] = {
    "not accepted": "A rule found an error: the row is shown here, but cannot be published.",
    "self-reported": "Passed every rule, but something keeps others from repeating it exactly.",
    "reproducible": "Passed every rule; code, machine, protocol and samples are known, so that "
    "anybody can repeat it.",
    "reproduced": "Another account measured the same on the same machine model and agrees.",
    "maintainer-verified": "A maintainer who did not submit it measured the same and agrees.",
}
"""Lowest first: what each word means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What can be said about one row: one case in one run."""

    tier: Tier
    agreeing: tuple[str, ...]
    """Other accounts that measured the same and agree, sorted."""
    differing: tuple[str, ...]
    """Other accounts that measured the same and differ, sorted."""
    missing: tuple[str, ...]
    """What keeps the row from the next tier, in sentences."""
    findings: tuple[Finding, ...]
    """What the rules found about the row, its file or its run."""

    @property
    def rules(self) -> tuple[str, ...]:
        """Ids of the rules that found something, sorted."""
        return tuple(sorted({finding.rule for finding in self.findings}))
