"""Stored runs -> rows: one a (run, case, metric), with everything derived beside the measured."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas

from bench import roofline
from bench.catalogue import Catalogue
from bench.derived import Summary, drift, noise, summary
from bench.model import (
    PROTOCOL_VERSION,
    REPRODUCTION,
    Case,
    Crashed,
    Diverged,
    Frontier,
    Images,
    Incorrect,
    Measured,
    NotRun,
    Ok,
    OutOfMemory,
    Record,
    RepeatedCase,
    Scalar,
    TaskRun,
    Timed,
    TimedOut,
    Unavailable,
    Unsupported,
    Workload,
)
from bench.submission import StoredRun
from bench.table import ROW_TYPES, Drift, RunEntry, TaskEntry, VariantEntry
from bench.tier import Trust

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Catalogue entries by name."""

    units: Mapping[str, str]
    varies: Mapping[str, bool]
    variants: Mapping[str, VariantEntry]
    tasks: Mapping[str, TaskEntry]


def run_entry(stored: StoredRun) -> RunEntry:
    """Return the header of a run and what follows from it."""
    run, conditions = stored.run, stored.run.conditions
    floor = noise(conditions.noise)
    outcomes: dict[str, int] = {}
    for record in stored.records:
        outcomes[record.outcome.kind] = outcomes.get(record.outcome.kind, 0) + 1
    return RunEntry(
        run=run,
        folder=f"{run.environment.hardware_id}/{run.run_id}",
        noise_floor=floor.interleaved if floor else None,
        noise_floor_sequential=floor.sequential if floor else None,
        drift=_drift(conditions.drift),
        duty=min(1.0, conditions.measured_s / conditions.wall_s),
        ceilings=roofline.best(run.ceilings),
        outcomes=dict(sorted(outcomes.items())),
        stale=run.protocol.version != PROTOCOL_VERSION,
    )


def _drift(repeated: RepeatedCase | None) -> Drift | None:
    found = drift(repeated) if repeated else None
    if repeated is None or found is None:
        return None
    visits = sum(len(visits) for visits in repeated.latencies_s)
    return Drift(change=found[0], spread=found[1], visits=visits)


def frames(
    runs: Iterable[StoredRun],
    catalogue: Catalogue,
    trusted: Mapping[tuple[str, str], Trust] | None = None,
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Return the rows of the newest run of each case on each machine, and all older rows.

    Args:
        runs: all accepted runs.
        catalogue: what the tree says about itself.
        trusted: (run_id, case id) -> how far it can be trusted; None: not judged.
    """
    stored = list(runs)
    known = _Known(
        units={column.name: column.unit for column in catalogue.columns},
        varies={column.name: column.varies for column in catalogue.columns},
        variants={variant.name: variant for variant in catalogue.variants},
        tasks={task.name: task for task in catalogue.tasks},
    )
    # a reproduction stands beside the row that it repeats, it never takes its place
    newest: dict[tuple[str, str], tuple[bool, str, str]] = {}
    for one in stored:
        for record in one.records:
            key = (one.run.environment.hardware_id, record.case.id)
            mine = (one.run.plan != REPRODUCTION, one.run.created, one.run.run_id)
            newest[key] = max(newest.get(key, (False, "", "")), mine)
    rows: list[Row] = []
    history: list[Row] = []
    for one in stored:
        entry = run_entry(one)
        for record in one.records:
            winner = newest[one.run.environment.hardware_id, record.case.id][2]
            target = rows if winner == one.run.run_id else history
            found = None if trusted is None else trusted[one.run.run_id, record.case.id]
            target.extend(_rows(entry, record, known, found))
    return frame(rows), frame(history)


def frame(rows: list[Row]) -> pandas.DataFrame:
    """Return rows as a frame with the columns and types of ROW_TYPES."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(ROW_TYPES)
    return pandas.DataFrame(
        {
            name: pandas.Series(values, dtype=kind)
            for (name, kind), values in zip(ROW_TYPES.items(), columns, strict=True)
        }
    )


def options_text(options: Mapping[str, Scalar]) -> str:
    """`name=value, ...` sorted by name; empty for a variant's defaults."""
    return ", ".join(f"{name}={value}" for name, value in sorted(options.items()))


def _rows(entry: RunEntry, record: Record, known: _Known, trusted: Trust | None) -> Iterator[Row]:
    case, outcome = record.case, record.outcome
    batch = outcome.batch if isinstance(outcome, Ok) else None
    executed = outcome.executed if isinstance(outcome, Ok) else None
    variant = known.variants.get(case.variant)
    stale = entry.stale or variant is None or variant.revision != record.variant_revision
    stale = stale or _other_task(record, known.tasks)
    run = entry.run
    before = (
        run.run_id,
        run.environment.hardware_id,
        run.environment.device,
        *_case_cells(record, batch),
        outcome.kind,
    )
    case_id = case.id

    def row(
        metric: str | None,
        found: Summary | None,
        *,
        reason: str | None = None,
        bound: str | None = None,
        implausible: bool = False,
    ) -> Row:
        return (
            *before,
            reason,
            executed,
            metric,
            known.units[metric] if metric else None,
            *_number_cells(found),
            bound,
            implausible,
            entry.noise_floor,
            record.variant_revision,
            stale,
            run.conditions.busy,
            case_id,
            run.plan,
            run.created,
            *_trust_cells(trusted),
        )

    if not isinstance(outcome, Ok):
        yield row(None, None, reason=failure_reason(outcome))
        return
    summaries = {
        m.metric: summary(m.rounds) for m in outcome.measurements if isinstance(m, Measured)
    }
    extra = _derived(case, batch, summaries, entry, variant)
    for measurement in outcome.measurements:
        if measurement.metric not in known.units:
            continue  # named in `refused` by load_table
        if isinstance(measurement, Unavailable):
            yield row(measurement.metric, None, reason=" ".join(measurement.reasons))
            continue
        fast = extra.implausible and measurement.metric == "latency"
        yield row(measurement.metric, summaries[measurement.metric], implausible=fast)
    for name, found in extra.numbers:
        bound = extra.bound if name == "efficiency" else None
        fast = extra.implausible and known.varies[name]
        yield row(name, found, bound=bound, implausible=fast)


def _trust_cells(trusted: Trust | None) -> Row:
    if trusted is None:
        return (None, pandas.NA, pandas.NA, None)
    rules = " ".join(trusted.rules)
    return (trusted.tier, len(trusted.agreeing), len(trusted.differing), rules or None)


def _other_task(record: Record, tasks: Mapping[str, TaskEntry]) -> bool:
    """Whether the task that was trained is not the tree's, by its revision or its recipe."""
    stimulus, version = record.case.stimulus, record.task
    if not isinstance(stimulus, TaskRun):
        return False
    known = tasks.get(stimulus.task)
    if known is None or version is None or known.revision != version.revision:
        return True
    return version.recipe_sha256 not in (None, known.recipe_sha256)


def _case_cells(record: Record, batch: int | None) -> Row:
    """From `variant` to `memory_budget_bytes` in the order of ROW_TYPES."""
    case = record.case
    name = (case.variant, case.backend, options_text(case.options), case.level, case.stimulus.kind)
    match case.stimulus:
        case Workload() as w:
            sizes = (w.passes, w.dtype, batch or w.batch, w.batch_policy, w.grid.height)
            sizes += (w.grid.width, w.tokens, w.resolution_px, w.heads, w.head_dim)
            return (*name, *sizes, w.extra_tokens, w.causal, *(None,) * 7)
        case Images() as i:
            sizes = (i.passes, i.dtype, batch or i.batch, i.batch_policy, None, None, None)
            nothing = (None,) * 4
            return (*name, *sizes, i.resolution_px, *nothing, i.backbone, *(None,) * 6)
        case Frontier() as f:
            nothing = (None,) * 5
            sizes = (f.passes, f.dtype, 1, *nothing, f.heads, f.head_dim)
            return (*name, *sizes, 0, False, *(None,) * 6, f.memory_bytes)
        case TaskRun() as t:
            outcome, version = record.outcome, record.task
            training = outcome.training if isinstance(outcome, Ok) else None
            trained = (
                version.revision if version else None,
                version.recipe_sha256 if version else None,
                training.data_sha256 if training else None,
            )
            return (*name, *(None,) * 13, t.task, t.seed, *trained, None)


def _number_cells(found: Summary | None) -> Row:
    if found is None:
        return (None, None, None, None, None, 0, 0)
    rounds = len(found.medians)
    return (found.value, found.low, found.high, found.p10, found.p90, found.samples, rounds)


def failure_reason(
    outcome: Incorrect | Unsupported | OutOfMemory | TimedOut | Crashed | Diverged | NotRun,
) -> str:
    """Say in words why a case has no measurement."""
    match outcome:
        case Unsupported():
            return " ".join(outcome.reasons)
        case TimedOut():
            return f"killed after {outcome.limit_s:g} s"
        case Diverged():
            return f"diverged at step {outcome.step} of {outcome.steps}: {outcome.reason}"
        case Incorrect() | OutOfMemory() | Crashed() | NotRun():
            return outcome.reason


# Derived numbers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Derived:
    numbers: tuple[tuple[str, Summary], ...] = ()
    bound: str | None = None
    implausible: bool = False


def _derived(
    case: Case,
    batch: int | None,
    summaries: Mapping[str, Summary],
    entry: RunEntry,
    variant: VariantEntry | None,
) -> _Derived:
    workload, latency = case.stimulus, summaries.get("latency")
    batch = batch or (workload.batch if isinstance(workload, Timed) else None)
    if not isinstance(workload, Timed) or latency is None or batch is None:
        return _Derived()
    if min(*latency.medians, latency.p10) <= 0:
        return _Derived()  # refused by R305, but a reader accepts it: there is no rate
    numbers: list[tuple[str, Summary]] = []
    if isinstance(workload, Workload):
        numbers.append(("throughput", over(batch * workload.tokens, latency)))
    if workload.resolution_px is not None:
        numbers.append(("image_throughput", over(batch, latency)))
    flops, parameters = summaries.get("flops"), summaries.get("parameters")
    if flops is None:
        return _Derived(numbers=tuple(numbers))
    work = roofline.total_flops(flops.value, workload)
    numbers.append(("flop_rate", over(work, latency)))
    moved = None
    if parameters is not None and variant is not None:
        least = roofline.least_bytes(
            workload,
            batch=batch,
            level=case.level,
            parameters=parameters.value,
            streams=variant.streams,
        )
        numbers.append(("intensity", exactly(work / least)))
        moved = roofline.from_memory(
            least,
            entry.run.environment.device,
            roofline.cache_bytes(entry.run.environment.settings),
        )
    floor = roofline.floor(entry.ceilings, dtype=workload.dtype, flops=work, moved_bytes=moved)
    if floor is None:
        return _Derived(numbers=tuple(numbers))
    efficiency = over(floor.seconds, latency)
    return _Derived(
        numbers=(*numbers, ("efficiency", efficiency)),
        bound=floor.bound,
        implausible=roofline.implausible(efficiency.value),
    )


def exactly(value: float) -> Summary:
    """Return a number that follows from exact ones."""
    return Summary(
        value=value, low=None, high=None, p10=value, p90=value, samples=1, medians=(value,)
    )


def over(amount: float, latency: Summary) -> Summary:
    """Return `amount` / latency with its interval: the ends change places."""
    return Summary(
        value=amount / latency.value,
        low=None if latency.high is None else amount / latency.high,
        high=None if latency.low is None else amount / latency.low,
        p10=amount / latency.p90,
        p90=amount / latency.p10,
        samples=latency.samples,
        medians=tuple(amount / value for value in latency.medians),
    )
