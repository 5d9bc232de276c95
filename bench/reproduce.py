"""Published rows found again, measured again by the same protocol, and compared."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from attention_impls.registry import unknown
from bench.derived import Comparison, Standing, apart, compare, noise, summary
from bench.model import Environment, Measured, Ok, Outcome, Plan, Record, Run, Timed
from bench.submission import StoredRun, read_results
from bench.tidy import failure_reason

Agreement = Literal["within the interval", "faster", "slower", "same outcome", "other outcome"]
_HEADLINE = {
    "workload": "latency",
    "images": "latency",
    "frontier": "largest_tokens",
    "task": "accuracy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One record of one run in results/."""

    run: Run
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What repeating a published row gave."""

    agreement: Agreement
    words: str
    """Both numbers and the ratio, in a sentence."""
    differences: tuple[str, ...]
    """What is not the same about machine and software: `name: published -> here`."""

    @property
    def agrees(self) -> bool:
        """Whether the published row stands."""
        return self.agreement in ("within the interval", "same outcome")


def find_row(root: Path, row: str) -> Published:
    """Find a published case by its id, the start of it, or the eight digits after `#`.

    Of several runs of one case the newest counts.

    Raises:
        UnknownName: nothing fits; names the nearest ids.
        ValueError: several cases fit; lists them.
    """
    found: dict[str, Published] = {}
    ids: set[str] = set()
    for stored in read_results(root)[0]:
        for record in stored.records:
            case_id = record.case.id
            ids.add(case_id)
            if case_id.startswith(row) or case_id.rpartition("#")[2] == row.removeprefix("#"):
                found[case_id] = Published(run=stored.run, record=record)
    if row in found:
        return found[row]
    if not found:
        raise unknown("published row", row, tuple(sorted(ids)))
    if len(found) > 1:
        listed = "\n  ".join(sorted(found)[:20])
        raise ValueError(f"{len(found)} rows begin with {row!r}; give more of the id:\n  {listed}")
    return next(iter(found.values()))


def repeat_plan(published: Published) -> Plan:
    """Return the plan of this one case, by the protocol that it was published with."""
    case, conditions = published.record.case, published.run.conditions
    return Plan(
        name="repro",
        purpose=f"Repeats one row of run {published.run.run_id}.",
        expected_minutes=1.0,
        protocol=published.run.protocol,
        cases=(case,),
        noise_pairs=(case,) if isinstance(case.stimulus, Timed) else (),
        anchor=conditions.drift.case if conditions.drift else case,
    )


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
        return Judgement(
            agreement="same outcome" if same else "other outcome",
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
    return Judgement(
        agreement=agreement,
        words=(
            f"{metric}: published {a.value:.5g}{interval}; here {b.value:.5g}, "
            f"{b.value / a.value:.3f} times that"
        ),
        differences=differences,
    )


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
            comparison = compare(summary(b).medians, summary(a).medians, noise_floor=floor)
        found.append(Pair(first=record, second=other, comparison=comparison))
    return tuple(found)


def compare_runs(root: Path, run_a: str, run_b: str) -> str:
    """Compare two runs case by case and return the table as text.

    The ratio is the second's latency over the first's, with its 95 % interval.

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
    lines += ["", f"{'B / A':>7}  {'95 % interval':>15}  {'B is':<9}  case"]
    for pair in compared:
        if pair.comparison is not None:
            lines.append(_ratio_line(pair.first.case.id, pair.comparison))
    for pair in compared:
        kinds = (pair.first.outcome.kind, pair.second.outcome.kind)
        if kinds[0] != kinds[1]:
            lines.append(f"outcome {kinds[0]} -> {kinds[1]}: {pair.first.case.id}")
    verdicts = [pair.comparison.verdict for pair in compared if pair.comparison]
    counted = ", ".join(f"{verdicts.count(v)} {v}" for v in ("faster", "slower", "undecided"))
    return "\n".join([*lines, "", f"{len(compared)} cases in common: B is {counted}"])


def _ratio_line(case_id: str, found: Comparison) -> str:
    ends = "" if found.low is None or found.high is None else f"{found.low:.3f}..{found.high:.3f}"
    return f"{found.ratio:7.3f}  {ends:>15}  {found.verdict:<9}  {case_id}"


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
