"""What must not be overlooked about a result, and how far it can be trusted."""

from collections.abc import Sequence

from bench.tier import TIERS, Finding, Tier, Trust
from leaderboard.format import count_of
from leaderboard.pieces import Badge, Inline, Piece
from leaderboard.results import OUTCOME_WORDS, Result, View
from leaderboard.tables import Cell, Head

_ORDER = {tier: number for number, tier in enumerate(TIERS)}
TRUST_HEAD = Head(
    title="Trust", ordered=True, secondary=True, shape="trust",
    help="How far the row can be trusted, computed from rules, git and other runs: "
    + ", ".join(TIERS) + ". The filter finds the words.",
)  # fmt: skip


def trust_of(view: View, result: Result) -> Trust | None:
    """Return what was judged about a result; None where nobody judged."""
    judged = view.table.trust
    return None if judged is None else judged.get((result.run_id, result.case_id))


def trust_cell(result: Result) -> Cell:
    """Return the tier as a word, sorted from the least to the most trusted."""
    if result.tier is None:
        return Cell(("not judged",), tone="muted")
    return Cell((_tier_badge(result, result.tier),), float(_ORDER[result.tier]))


def _tier_badge(result: Result, tier: Tier) -> Badge:
    words, help_ = tier, TIERS[tier]
    if tier == "reproduced":
        words = f"{tier} \N{MULTIPLICATION SIGN}{result.reproductions}"
    if result.contradictions:
        help_ += f" {count_of(result.contradictions, 'other account')} got something else."
    return Badge(words, "failure" if tier == "not accepted" else "plain", help_)


def rule_badges(view: View, result: Result) -> list[Piece]:
    """Return a badge for each rule that found something about this very row.

    What was found about the whole run stands on the result's page and the run's.
    """
    judged = trust_of(view, result)
    if judged is None:
        return []
    mine: dict[str, list[Finding]] = {}
    for finding in judged.findings:
        if result.case_id in finding.case_ids:
            mine.setdefault(finding.rule, []).append(finding)
    found: list[Piece] = []
    for rule, findings in sorted(mine.items()):
        tone = "failure" if findings[0].severity == "error" else "warning"
        found += [" ", Badge(rule, tone, finding_words(findings[0]), f"flags.html#{rule}")]
    return found


def message_of(finding: Finding) -> str:
    """Return what a rule found, without the place in the file: the row is that place."""
    message = finding.message.partition("): ")[2] if finding.case_ids else ""
    return message or finding.message


def finding_words(finding: Finding) -> str:
    """Return what a rule found, with its severity and id."""
    return f"{finding.severity} {finding.rule}: {message_of(finding)}"


def trust_words(view: View, result: Result) -> Sequence[Inline]:
    """Return the tier of a result and everything that it follows from, a sentence each."""
    judged = trust_of(view, result)
    if judged is None:
        return (("Not judged: no rule was applied when these pages were built.",),)
    lines: list[Inline] = [(_tier_badge(result, judged.tier), f" {TIERS[judged.tier]}")]
    if judged.agreeing:
        lines.append((f"Agreeing: {', '.join(judged.agreeing)}.",))
    if judged.differing:
        lines.append((f"Differing: {', '.join(judged.differing)}.",))
    lines += [(f"Missing for more: {sentence}",) for sentence in judged.missing]
    lines += [(finding_words(f),) for f in judged.findings if f.severity == "flag"]
    return tuple(lines)


def flags(result: Result, *, busy: bool = True) -> list[Piece]:
    """Return the badges of a result: what must not be overlooked.

    Args:
        result: what is shown.
        busy: say that the machine was busy; False where the page says so once for all.
    """
    found: list[Piece] = []
    if result.stale:
        found += [" ", Badge("stale", "warning", "Measured with an older version; not ranked.")]
    if result.busy and busy:
        found += [" ", Badge("busy machine", "warning", "The machine was not quiet.")]
    if any(n.implausible for n in result.numbers.values()):
        found += [" ", Badge("implausible", "failure",
                             "Faster than the machine's own ceilings allow; not "
                             "ranked.")]  # fmt: skip
    return found


def failure_words(result: Result) -> str:
    """Return what became of a failed case, in words."""
    return OUTCOME_WORDS.get(result.outcome, result.outcome)
