"""Journals of parts of one plan, put together: concatenation with a check.

Devices that no driver can reach at the same time each make a part of the plan and leave a journal.
Together they are the journal of one run, if they are of one plan, one protocol, one code, one kind
of device, and hold no visit twice.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.description import environment_differences
from bench.dispatch import Dispatch
from bench.journal import Journal, JournalError
from bench.journal_lines import Arrival
from bench.model import Visit


def put_together(shards: Sequence[Path], target: Path) -> Journal:
    """Write the visits of all `shards` into a new journal `target`, and return it open.

    The shards stay as they are. Nothing is left if one of them is refused or the disk is full.

    Raises:
        JournalError: names the shard that does not belong to the first, and everything in which it
            differs; or the visit that two of them hold; or a shard that is being written or was
            given twice; or the disk is full.
    """
    if not shards:
        raise JournalError("no journals were given")
    for place, path in enumerate(shards):
        if path.resolve() in {other.resolve() for other in shards[:place]}:
            raise JournalError(f"{path} was given twice; name each journal once")
    with ExitStack() as stack:
        opened = [stack.enter_context(Journal.open(path)) for path in shards]
        first = opened[0]
        owner: dict[Visit, Path] = {}
        for journal in opened:
            _refuse_stranger(first, journal)
            for entry in journal.entries:
                before = owner.setdefault(entry.visit, journal.path)
                if before != journal.path:
                    raise JournalError(
                        f"{before.name} and {journal.path.name} both hold {entry.case_id}, round "
                        f"{entry.round}: put each visit together once"
                    )
        joined = Journal.create(target, first.header)
        try:
            for journal in opened:
                if journal is not first and journal.header.ceilings != first.header.ceilings:
                    ceilings = journal.header.ceilings
                    joined.arrived(Arrival(slot=journal.path.stem, ceilings=ceilings))
                for arrival in journal.arrivals:
                    joined.arrived(arrival)
                for entry in journal.entries:
                    joined.append(entry)
        except BaseException:
            # half of it would pass for a run that was stopped
            joined.close()
            target.unlink()
            raise
    return joined


def missing(journal: Journal) -> int:
    """Return how many visits of its plan a journal does not settle."""
    header = journal.header
    dispatch = Dispatch(header.plan, header.environment.device, journal.outcomes)
    return dispatch.total - dispatch.settled


def _refuse_stranger(first: Journal, other: Journal) -> None:
    try:
        first.check_resumable(other.header)
    except JournalError as difference:
        raise JournalError(
            f"{other.path.name} does not belong to {first.path.name}: {difference}"
        ) from None
    differing = environment_differences(first.header.environment, other.header.environment)
    if differing:
        raise JournalError(
            f"{other.path.name} does not belong to {first.path.name}: {'; '.join(differing)}"
        )
