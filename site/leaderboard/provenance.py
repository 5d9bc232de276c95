"""What must not be overlooked about a result."""

from leaderboard.blocks import Badge, Piece
from leaderboard.results import OUTCOME_WORDS, Result


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
