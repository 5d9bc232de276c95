"""Visits -> records and conditions. The result does not depend on the order of the visits."""

from bench.journal import Journal
from bench.journal_lines import Entry
from bench.load import is_busy
from bench.model import (
    Case,
    Conditions,
    Measured,
    Measurement,
    NotRun,
    Ok,
    Outcome,
    Plan,
    Record,
    RepeatedCase,
    TaskRun,
    Unavailable,
)


def records(plan: Plan, journal: Journal) -> tuple[Record, ...]:
    """Return one record a case of `plan`, sorted by case id.

    Rounds are put together in their order, from the first repetition of each. A case that failed
    in any visit is that failure; the earliest counts. A case that was never visited is `NotRun`.
    """
    visits: dict[str, list[Entry]] = {}
    for entry in sorted(journal.entries, key=lambda entry: (entry.round, entry.repetition)):
        visits.setdefault(entry.case_id, []).append(entry)
    sources, tasks = journal.header.variants, journal.header.tasks
    return tuple(
        Record(
            case=case,
            variant_revision=sources[case.variant].revision,
            task=tasks[case.stimulus.task] if isinstance(case.stimulus, TaskRun) else None,
            outcome=_merged(visits.get(case.id, [])),
        )
        for case in sorted(plan.cases, key=lambda case: case.id)
    )


def conditions(plan: Plan, journal: Journal) -> Conditions:
    """Return how quiet the machine was, how the time was spent, and what repeated cases gave."""
    entries = journal.entries
    load = tuple(entry.foreign_load for entry in entries if entry.foreign_load is not None)
    noise = (_repeated(case, entries, least=2) for case in plan.noise_pairs)
    return Conditions(
        wall_s=max(sum(entry.wall_s for entry in entries), 1e-9),
        measured_s=sum(entry.measured_s for entry in entries),
        foreign_load=load,
        busy=is_busy(load),
        drift=_repeated(plan.anchor, entries, least=1),
        noise=tuple(repeated for repeated in noise if repeated is not None),
    )


def _merged(entries: list[Entry]) -> Outcome:
    oks: list[Ok] = []
    for entry in entries:
        if not isinstance(entry.outcome, Ok):
            return entry.outcome
        if entry.repetition == 0:
            oks.append(entry.outcome)
    if not oks:
        return NotRun(reason="the run ended before this case")
    first = oks[0]
    names = sorted({m.metric for ok in oks for m in ok.measurements})
    return Ok(
        measurements=tuple(_metric(name, oks) for name in names),
        executed=first.executed,
        batch=first.batch,
        checked=first.checked,
        training=first.training,
    )


def _metric(name: str, oks: list[Ok]) -> Measurement:
    """All rounds of one metric; what any round could not measure is unavailable."""
    found = [m for ok in oks for m in ok.measurements if m.metric == name]
    reasons = [r for m in found if isinstance(m, Unavailable) for r in m.reasons]
    if reasons:
        return Unavailable(metric=name, reasons=tuple(dict.fromkeys(reasons)))
    return Measured(
        metric=name, rounds=tuple(r for m in found if isinstance(m, Measured) for r in m.rounds)
    )


def _repeated(case: Case, entries: tuple[Entry, ...], *, least: int) -> RepeatedCase | None:
    """Latency medians of every visit of `case`, by round; rounds with fewer visits are left out."""
    rounds: dict[int, list[tuple[int, float]]] = {}
    for entry in entries:
        if entry.case_id == case.id and isinstance(entry.outcome, Ok):
            median = _latency(entry.outcome)
            if median is not None:
                rounds.setdefault(entry.round, []).append((entry.repetition, median))
    full = [sorted(visits) for _, visits in sorted(rounds.items()) if len(visits) >= least]
    if not full:
        return None
    return RepeatedCase(
        case=case, latencies_s=tuple(tuple(m for _, m in visits) for visits in full)
    )


def _latency(outcome: Ok) -> float | None:
    for measurement in outcome.measurements:
        if isinstance(measurement, Measured) and measurement.metric == "latency":
            samples = sorted(measurement.rounds[0])
            middle = len(samples) // 2
            if len(samples) % 2:
                return samples[middle]
            return (samples[middle - 1] + samples[middle]) / 2
    return None
