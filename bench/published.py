"""Published rows and runs, found by what a person types of their ids."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from attention_impls.registry import UnknownName, unknown
from bench.model import REPRODUCTION, Measured, Ok, Record, Run
from bench.submission import StoredRun, read_results

_LISTED = 20
"""Rows that an error lists."""
_COMPARED = 500
"""Ids that are searched for the nearest; a search of all would take seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One record of one run in results/."""

    run: Run
    record: Record
    others: tuple[str, ...] = ()
    """Other runs that published the case, as `<hardware_id>/<run_id>`, newest first."""


def find_row(root: Path, row: str, of: str | None = None) -> Published:
    """Find a published case by its id, the start of it, or the eight digits after `#`.

    Of several runs of one case the newest counts; reproductions only where nothing else has it.

    Args:
        root: the results folder.
        row: the id, its start, or its digits.
        of: the run that published it, by id, its start, or `<hardware_id>/<run_id>`; None: any.

    Raises:
        UnknownName: nothing fits; names the nearest ids.
        ValueError: several cases fit; lists them.
    """
    every = read_results(root)[0] if of is None else (find_run(root, of),)
    # the last one is taken: the newest, and reproductions come first
    every = sorted(every, key=lambda one: one.run.plan != REPRODUCTION)
    found: dict[str, Record] = {}
    runs: dict[str, list[Run]] = {}
    ids: set[str] = set()
    for stored in every:
        for record in stored.records:
            case_id = record.case.id
            ids.add(case_id)
            if case_id.startswith(row) or case_id.rpartition("#")[2] == row.removeprefix("#"):
                found[case_id] = record
                runs.setdefault(case_id, []).append(stored.run)
    case_id = row if row in found else next(iter(found), None)
    if case_id is None:
        raise UnknownName(_no_row(row, ids, of))
    if row not in found and len(found) > 1:
        more = f"\n  and {len(found) - _LISTED} others" if len(found) > _LISTED else ""
        listed = "\n  ".join(sorted(found)[:_LISTED])
        raise ValueError(
            f"{len(found)} rows begin with {row!r}; give more of the id:\n  {listed}{more}"
        )
    *others, run = runs[case_id]
    return Published(
        run=run,
        record=found[case_id],
        others=tuple(f"{o.environment.hardware_id}/{o.run_id}" for o in reversed(others)),
    )


def _no_row(row: str, ids: set[str], of: str | None) -> str:
    """Say that nothing fits, how far the id is right, and the nearest ids; not all of thousands."""
    where = "" if of is None else f" in run {of}"
    told = (
        "The page of a result shows its id; `attnbench export` lists all in column case_id. "
        "It may be cut short, or be the eight digits after `#` alone."
    )
    if not ids:
        return f"no published row {row!r}{where}: nothing is published there. {told}"
    right = max(_shared(row, one) for one in ids)
    near = sorted(one for one in ids if one.startswith(row[:right]))
    nearest = get_close_matches(row, near[:_COMPARED], n=3, cutoff=0.0)
    listed = "".join(f"\n  {one}" for one in nearest) if right else ""
    hint = f" Did you mean{listed}" if listed else ""
    begin = f" Right up to {row[:right]!r}." if right else " None begins like it."
    return f"no published row {row!r}{where}.{begin} {told}{hint}"


def _shared(a: str, b: str) -> int:
    """Characters that two texts have in common at their starts."""
    return next(
        (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def find_run(root: Path, name: str) -> StoredRun:
    """Find a run by its id, the start of it, or `<hardware_id>/<run_id>`.

    Raises:
        UnknownName: nothing fits.
        ValueError: several runs fit.
    """
    stored = read_results(root)[0]
    known = {f"{s.run.environment.hardware_id}/{s.run.run_id}": s for s in stored}
    found = [k for k, s in known.items() if k.startswith(name) or s.run.run_id.startswith(name)]
    if not found:
        raise unknown("run", name, tuple(sorted(known)))
    if len(found) > 1:
        raise ValueError(f"{len(found)} runs begin with {name!r}: {', '.join(sorted(found))}")
    return known[found[0]]


def rounds_of(record: Record, metric: str) -> tuple[tuple[float, ...], ...] | None:
    """Return the samples of a metric by round; None where it was not measured."""
    if not isinstance(record.outcome, Ok):
        return None
    for measurement in record.outcome.measurements:
        if isinstance(measurement, Measured) and measurement.metric == metric:
            return measurement.rounds
    return None
