"""Published rows found again, measured again by the same protocol, and compared."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import sqrt
from pathlib import Path
from typing import Literal

from attention_impls.registry import UnknownName, unknown
from bench.derived import Comparison, Standing, apart, compare, noise, summary
from bench.model import REPRODUCTION, Environment, Measured, Ok, Outcome, Plan, Record, Run, TaskRun
from bench.plan import repeating
from bench.submission import StoredRun, read_results
from bench.task import task, tasks
from bench.tidy import failure_reason

Agreement = Literal["within the interval", "faster", "slower", "same outcome", "other outcome"]
_HEADLINE = {
    "workload": "latency",
    "images": "latency",
    "frontier": "largest_tokens",
    "task": "accuracy",
}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What repeating a published row gave."""

    agreement: Agreement
    verdict: str
    """`within the interval`, `12.3 % slower`, `out of memory instead of ok`, ..."""
    words: str
    """Both numbers and the ratio, in a sentence."""
    differences: tuple[str, ...]
    """What is not the same about machine and software: `name: published -> here`."""

    @property
    def agrees(self) -> bool:
        """Whether the published row stands."""
        return self.agreement in ("within the interval", "same outcome")


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


def repeat_plan(published: Published) -> Plan:
    """Return the plan of this one case, by the protocol that it was published with."""
    case, drift = published.record.case, published.run.conditions.drift
    return repeating(case, published.run.protocol, anchor=drift.case if drift else case)


def judge(published: Published, environment: Environment, repeated: Record) -> Judgement:
    """Compare a repeated record with the published one.

    The row stands if the two 95 % intervals overlap or the values differ by less than the
    published run's noise floor; a failure stands if it is the same kind of failure again.
    """
    differences = tuple(environment_differences(published.run.environment, environment))
    old, new = published.record.outcome, repeated.outcome
    metric = _HEADLINE[published.record.case.stimulus.kind]
    before, after = _rounds(published.record, metric), _rounds(repeated, metric)
    if before is None or after is None:
        same = old.kind == new.kind
        kinds = [one.kind.replace("_", " ") for one in (old, new)]
        return Judgement(
            agreement="same outcome" if same else "other outcome",
            verdict=f"{kinds[1]} again" if same else f"{kinds[1]} instead of {kinds[0]}",
            words=f"published: {_outcome_words(old)}; here: {_outcome_words(new)}",
            differences=differences,
        )
    a, b = summary(before), summary(after)
    floor = noise(published.run.conditions.noise)
    decided = apart(
        Standing(value=a.value, low=a.low, high=a.high),
        Standing(value=b.value, low=b.low, high=b.high),
        noise_floor=floor.interleaved if floor else None,
        varies=metric == "latency",
    )
    agreement: Agreement = "within the interval"
    if decided:
        agreement = "faster" if (b.value < a.value) == (metric == "latency") else "slower"
    interval = f", 95 % {a.low:.5g} to {a.high:.5g}" if a.low is not None else ""
    times = f", {b.value / a.value:.3f} times that" if a.value else ""
    return Judgement(
        agreement=agreement,
        verdict=_difference_words(metric, a.value, b.value) if decided else agreement,
        words=f"{metric}: published {a.value:.5g}{interval}; here {b.value:.5g}{times}",
        differences=differences,
    )


_DIRECTIONS = {
    "latency": ("slower", "faster"),
    "largest_tokens": ("more tokens", "fewer tokens"),
    "accuracy": ("higher", "lower"),
}


def _difference_words(metric: str, published: float, here: float) -> str:
    """`12.3 % slower`: how far the repetition is from the published value, and which way."""
    more, less = _DIRECTIONS[metric]
    direction = more if here > published else less
    if metric == "accuracy":
        return f"{100 * abs(here - published):.1f} percentage points {direction}"
    if not published:
        return f"{here:.5g} instead of 0"
    return f"{100 * abs(here / published - 1):.1f} % {direction}"


TOLERANCE = 0.1
"""Up to this relative difference two machines of one model have measured the same."""


def agrees(published: Published, other: Published) -> bool:
    """Whether another person's measurement confirms a published one.

    Machines of one model differ more than one machine from itself, so a difference up to
    `TOLERANCE` confirms, too; accuracies may differ by two standard errors of their difference,
    where the task counts items, and failures must be of the same kind.
    """
    metric = _HEADLINE[published.record.case.stimulus.kind]
    before, after = _rounds(published.record, metric), _rounds(other.record, metric)
    if before is None or after is None:
        return published.record.outcome.kind == other.record.outcome.kind
    a, b = summary(before).value, summary(after).value
    stimulus = published.record.case.stimulus
    if isinstance(stimulus, TaskRun):
        items = _test_items(stimulus.task)
        if items is None:
            return a == b
        return abs(a - b) <= 2 * sqrt(2 * a * (1 - a) / items)
    if max(a, b) <= (1 + TOLERANCE) * min(a, b):
        return True
    return judge(published, other.run.environment, other.record).agrees


def _test_items(name: str) -> int | None:
    return task(name).test_items if name in {one.name for one in tasks()} else None


def environment_differences(published: Environment, here: Environment) -> Iterator[str]:
    """Yield `name: published -> here` for everything that is not the same."""
    for field in fields(published):
        a, b = getattr(published, field.name), getattr(here, field.name)
        if isinstance(a, dict):
            names = sorted(set(a) | set(b))
            for name in names:
                if a.get(name) != b.get(name):
                    yield f"{field.name}.{name}: {a.get(name)} -> {b.get(name)}"
        elif a != b:
            yield f"{field.name}: {a} -> {b}"


# Two runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One case that both runs have."""

    first: Record
    second: Record
    comparison: Comparison | None
    """Latency of the second over the first; None where one of them has none."""


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


def pairs(first: StoredRun, second: StoredRun) -> tuple[Pair, ...]:
    """Return the cases that both runs have, compared."""
    floors = [noise(stored.run.conditions.noise) for stored in (first, second)]
    floor = max((f.interleaved for f in floors if f), default=None)
    others = {record.case.id: record for record in second.records}
    found: list[Pair] = []
    for record in first.records:
        other = others.get(record.case.id)
        if other is None:
            continue
        a, b = _rounds(record, "latency"), _rounds(other, "latency")
        comparison = None
        if a is not None and b is not None:
            medians = (summary(b).medians, summary(a).medians)
            if min(map(min, medians)) > 0:  # a rule refuses others, but runs compare without
                comparison = compare(*medians, noise_floor=floor)
        found.append(Pair(first=record, second=other, comparison=comparison))
    return tuple(found)


def compare_runs(root: Path, run_a: str, run_b: str) -> str:
    """Compare two runs case by case and return the table as text.

    The ratio is the second's latency over the first's, with its 95 % interval; the largest ratio
    stands first. Then the cases whose outcome changed, and how many only one of the runs has.

    Raises:
        UnknownName: no such run.
        ValueError: the runs have no case in common, or a name fits several runs.
    """
    first, second = find_run(root, run_a), find_run(root, run_b)
    compared = pairs(first, second)
    if not compared:
        raise ValueError(f"{first.run.run_id} and {second.run.run_id} have no case in common")
    lines = [f"A {first.run.run_id}", f"B {second.run.run_id}"]
    a, b = first.run, second.run
    if a.protocol.version != b.protocol.version:
        lines.append(
            f"protocol versions {a.protocol.version} and {b.protocol.version}: measured in "
            "different ways, the ratios below mean little"
        )
    lines += [f"  {line}" for line in environment_differences(a.environment, b.environment)]
    timed = [(pair.comparison, pair) for pair in compared if pair.comparison is not None]
    if timed:
        heads = f"{'B / A':>7}  {'95 % interval':>15}  {'B is':<9}  {'A':>9}  {'B':>9}  case"
        lines += ["", heads]
    for found, pair in sorted(timed, key=lambda one: -one[0].ratio):
        lines.append(_ratio_line(pair, found))
    changed = [p for p in compared if p.first.outcome.kind != p.second.outcome.kind]
    for pair in changed:
        kinds = (pair.first.outcome.kind, pair.second.outcome.kind)
        lines.append(f"outcome {kinds[0]} -> {kinds[1]}: {pair.first.case.id}")
    verdicts = [comparison.verdict for comparison, _ in timed]
    counted = ", ".join(f"{verdicts.count(v)} {v}" for v in ("faster", "slower", "undecided"))
    alone = [len(one.records) - len(compared) for one in (first, second)]
    lines += ["", f"{len(compared)} cases in common: B is {counted}"]
    lines.append(
        f"{len(changed)} outcomes differ; {alone[0]} cases are in A alone, {alone[1]} in B alone"
    )
    return "\n".join(lines)


def _ratio_line(pair: Pair, found: Comparison) -> str:
    ends = "" if found.low is None or found.high is None else f"{found.low:.3f}..{found.high:.3f}"
    times = [_rounds(record, "latency") for record in (pair.first, pair.second)]
    a, b = ("" if t is None else _seconds(summary(t).value) for t in times)
    return (
        f"{found.ratio:7.3f}  {ends:>15}  {found.verdict:<9}  {a:>9}  {b:>9}  {pair.first.case.id}"
    )


def _seconds(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _rounds(record: Record, metric: str) -> tuple[tuple[float, ...], ...] | None:
    if not isinstance(record.outcome, Ok):
        return None
    for measurement in record.outcome.measurements:
        if isinstance(measurement, Measured) and measurement.metric == metric:
            return measurement.rounds
    return None


def _outcome_words(outcome: Outcome) -> str:
    if isinstance(outcome, Ok):
        return "ok"
    return f"{outcome.kind} ({failure_reason(outcome)})"
