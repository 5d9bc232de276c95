"""Which outcome an exception of the code under test is, wherever it was raised."""

from attention_impls.shapes import UnsupportedShape
from bench import failures
from bench.blueprint import CannotRun
from bench.frontier import TooLarge
from bench.gate import Wrong
from bench.model import Diverged, NotRun, Outcome, OutOfMemory, Unsupported
from bench.task import MissingDataError
from bench.together import EndedError
from bench.training import DivergedError


def outcome_of(failure: Exception, limit_bytes: int | None) -> Outcome:
    """Return the outcome of a visit that raised.

    Args:
        failure: what was raised.
        limit_bytes: memory limit in force, if any.
    """
    match failure:
        case CannotRun():
            return Unsupported(reasons=tuple(map(failures.published, failure.reasons)))
        case UnsupportedShape():
            return Unsupported(reasons=(failures.published(str(failure)),))
        case Wrong() | EndedError():
            return failure.outcome
        case MissingDataError():
            return NotRun(reason=failures.published(str(failure)))
        case DivergedError():
            return Diverged(step=failure.step, steps=failure.steps, reason=str(failure))
        case TooLarge():
            return OutOfMemory(
                requested_bytes=failure.needed_bytes,
                limit_bytes=failure.budget_bytes,
                reason=str(failure),
            )
        case _:
            return failures.raised(failure, limit_bytes)
