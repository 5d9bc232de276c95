"""What stands behind one result: where to check or repeat it, what to beware of."""

from leaderboard.addresses import result_address
from leaderboard.blocks import Badge, Link, Piece
from leaderboard.results import OUTCOME_WORDS, Result


def flags(result: Result) -> list[Piece]:
    """Return the badges of a result: what must not be overlooked."""
    found: list[Piece] = []
    if result.stale:
        found += [" ", Badge("stale", "warning", "Measured with an older version; not ranked.")]
    if result.busy:
        found += [" ", Badge("busy machine", "warning", "The machine was not quiet.")]
    if any(n.implausible for n in result.numbers.values()):
        found += [" ", Badge("implausible", "failure",
                             "Faster than the machine's own ceilings allow; not "
                             "ranked.")]  # fmt: skip
    return found


def failure_words(result: Result) -> str:
    """Return what became of a failed case, in words."""
    return OUTCOME_WORDS.get(result.outcome, result.outcome)


def evidence(result: Result) -> Link:
    """Return the way to everything that is needed to check or repeat one result."""
    return Link("Details", result_address(result))
