"""Whether a published row that was measured again, by the same protocol, stands."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import sqrt
from typing import Literal

from bench.derived import Standing, Summary, apart, noise, summary
from bench.model import Environment, Ok, Outcome, Plan, Record, TaskRun
from bench.plan import repeating
from bench.published import Published, rounds_of
from bench.task import task, tasks
from bench.tidy import failure_reason

Agreement = Literal[
    "within the interval", "faster", "slower", "undecided", "same outcome", "other outcome"
]
_HEADLINE = {
    "workload": "latency",
    "images": "latency",
    "frontier": "largest_tokens",
    "task": "accuracy",
}
TOLERANCE = 0.1
"""Up to this relative difference two machines of one model have measured the same."""


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


def repeat_plan(published: Published) -> Plan:
    """Return the plan of this one case, by the protocol that it was published with."""
    case, drift = published.record.case, published.run.conditions.drift
    return repeating(case, published.run.protocol, anchor=drift.case if drift else case)


def judge(published: Published, environment: Environment, repeated: Record) -> Judgement:
    """Compare a repeated record with the published one.

    The row stands if the two 95 % intervals overlap or the values differ by less than the
    published run's noise floor; a failure stands if it is the same kind of failure again. A wide
    interval here says nothing: what lies outside the published one by more than `TOLERANCE`, and
    overlaps only because of it, is undecided.
    """
    differences = tuple(environment_differences(published.run.environment, environment))
    old, new = published.record.outcome, repeated.outcome
    metric = _HEADLINE[published.record.case.stimulus.kind]
    before, after = rounds_of(published.record, metric), rounds_of(repeated, metric)
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
    away = metric == "latency" and not _near(a, b.value)
    if decided:
        agreement = "faster" if (b.value < a.value) == (metric == "latency") else "slower"
    elif away:
        agreement = "undecided"
    times = f", {b.value / a.value:.3f} times that" if a.value else ""
    verdict = _difference_words(metric, a.value, b.value) if decided or away else agreement
    if agreement == "undecided":
        verdict = f"undecided: {verdict}, but the intervals overlap; repeat it on a quiet machine"
    return Judgement(
        agreement=agreement,
        verdict=verdict,
        words=f"{metric}: published {_with_ends(a)}; here {_with_ends(b)}{times}",
        differences=differences,
    )


def _near(published: Summary, here: float) -> bool:
    """Whether a value lies in the published interval, or within `TOLERANCE` of the value."""
    low, high = published.low, published.high
    inside = low is not None and high is not None and low <= here <= high
    least, most = sorted((published.value, here))
    return inside or most <= (1 + TOLERANCE) * least


def _with_ends(found: Summary) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.5g}"
    return f"{found.value:.5g} (95 % {found.low:.5g} to {found.high:.5g})"


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


def agrees(published: Published, other: Published) -> bool | None:
    """Whether another person's measurement confirms a published one; None: it cannot tell.

    Machines of one model differ more than one machine from itself, so a difference up to
    `TOLERANCE` confirms, too; accuracies may differ by two standard errors of their difference,
    where the task counts items, and failures must be of the same kind.
    """
    metric = _HEADLINE[published.record.case.stimulus.kind]
    before, after = rounds_of(published.record, metric), rounds_of(other.record, metric)
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
    judged = judge(published, other.run.environment, other.record)
    return None if judged.agreement == "undecided" else judged.agrees


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


def _outcome_words(outcome: Outcome) -> str:
    if isinstance(outcome, Ok):
        return "ok"
    return f"{outcome.kind} ({failure_reason(outcome)})"
