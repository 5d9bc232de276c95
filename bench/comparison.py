"""Two runs of results/, case by case: which is faster, and whose outcomes changed."""

from dataclasses import dataclass
from pathlib import Path

from bench.derived import Comparison, compare, noise, summary
from bench.model import Record
from bench.published import find_run, rounds_of
from bench.reproduce import environment_differences
from bench.submission import StoredRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One case that both runs have."""

    first: Record
    second: Record
    comparison: Comparison | None
    """Latency of the second over the first; None where one of them has none."""


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
        a, b = rounds_of(record, "latency"), rounds_of(other, "latency")
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
    times = [rounds_of(record, "latency") for record in (pair.first, pair.second)]
    a, b = ("" if t is None else _seconds(summary(t).value) for t in times)
    return (
        f"{found.ratio:7.3f}  {ends:>15}  {found.verdict:<9}  {a:>9}  {b:>9}  {pair.first.case.id}"
    )


def _seconds(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"
