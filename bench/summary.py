"""The last screen of a run: the answer in five lines, how sure, what failed, where it lies."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from attention_impls.registry import load
from bench.derived import Noise, Standing, mean_of_seeds, noise, ranks, summary
from bench.measure import Finished
from bench.model import Case, Measured, Ok, Record, TaskRun, Unavailable, Workload

_SHOWN = 3
"""Ranks on a line."""
_SIDE_BY_SIDE = 100
"""Columns of a terminal from which a question leaves room for its ranking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One line: a question and who is best, ties joined by `=`."""

    question: str
    ranking: str


def last_screen(finished: Finished, page: Path | None, console: Console) -> None:
    """Print what a person needs after a run; `page` is None where the site was not rendered."""
    conditions = finished.conditions
    pairs = noise(conditions.noise)
    floor = None if pairs is None else pairs.interleaved
    console.print()
    print_answers(tuple(answers(finished.records, floor)), console)
    console.print()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("machine", finished.run.environment.hardware_id + _busy_words(finished))
    facts.add_row("duty", f"{conditions.measured_s / conditions.wall_s:.0%} of the wall time "
                  f"({conditions.wall_s:.0f} s) was spent inside measured calls")  # fmt: skip
    facts.add_row("noise floor", _noise_words(pairs))
    facts.add_row("cells", cell_words(finished.records))
    for line in failure_lines(finished.records):
        facts.add_row("", line)
    for line in counter_lines(finished.records):
        facts.add_row("FLOPs", line)
    console.print(facts)
    # paths stay whole, so that they can be copied from a narrow terminal
    for name, where in (
        ("results", str(finished.folder)),
        ("page", "not rendered" if page is None else str(page.resolve())),
    ):
        console.print(f"[dim]{name:11}[/dim]  ", end="")
        console.print(where, highlight=False, markup=False, soft_wrap=True)


def print_answers(found: Sequence[Answer], console: Console) -> None:
    """Question and ranking side by side, or below each other where a line has too little room."""
    if console.width < _SIDE_BY_SIDE:
        for answer in found:
            console.print(answer.question, style="dim", highlight=False)
            console.print(Padding(answer.ranking, (0, 0, 0, 2)), highlight=False)
        return
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for answer in found:
        grid.add_row(answer.question, answer.ranking)
    console.print(grid)


def answers(records: Sequence[Record], noise_floor: float | None) -> Iterator[Answer]:
    """Yield up to five ranked answers: three of speed, one of memory, one of accuracy."""
    timed = [r for r in records if _plain(r.case)]
    forward = [r for r in timed if _workload(r.case).passes == "forward"]
    training = [r for r in timed if _workload(r.case).passes == "forward_backward"]
    small, large = _at_size(forward, min), _at_size(forward, max)
    if small:
        yield _fastest("fastest forward", small, noise_floor)
    if large and large != small:
        yield _fastest("fastest forward", large, noise_floor)
    if training:
        yield _fastest("fastest forward+backward", _at_size(training, max), noise_floor)
    if large:
        yield Answer(
            question=f"least memory, {_size_words(large[0].case)}",
            ranking=_ranking(large, "peak_memory", "lower", None, _bytes_words, varies=False),
        )
    yield from _most_accurate(records)


def _plain(case: Case) -> bool:
    """Layer level, batch 1, default options, an image: what the lines compare."""
    s = case.stimulus
    return (
        isinstance(s, Workload)
        and case.level == "layer"
        and s.batch_policy == "one"
        and not case.options
        and s.resolution_px is not None
    )


def _workload(case: Case) -> Workload:
    if not isinstance(case.stimulus, Workload):
        raise TypeError(f"{case.id} is not a timed case")
    return case.stimulus


def _at_size(records: list[Record], choose: Callable[[set[int]], int]) -> list[Record]:
    """Records of the smallest or largest size (and one dtype) that any two variants completed."""
    by_tokens = Counter(_workload(r.case).tokens for r in records if isinstance(r.outcome, Ok))
    sizes = {tokens for tokens, done in by_tokens.items() if done > 1} or set(by_tokens)
    if not sizes:
        return []
    wanted = choose(sizes)
    dtype = min(_workload(r.case).dtype for r in records)
    same = [r for r in records if _workload(r.case).tokens == wanted]
    return [r for r in same if _workload(r.case).dtype == dtype]


def _size_words(case: Case) -> str:
    w = _workload(case)
    return f"{w.resolution_px} px ({w.tokens:,} tokens, {w.dtype})"


def _fastest(question: str, records: list[Record], noise_floor: float | None) -> Answer:
    return Answer(
        question=f"{question}, {_size_words(records[0].case)}",
        ranking=_ranking(records, "latency", "lower", noise_floor, _seconds_words, varies=True),
    )


def _ranking(
    records: list[Record],
    metric: str,
    better: Literal["lower", "higher"],
    noise_floor: float | None,
    words: Callable[[float], str],
    *,
    varies: bool,
) -> str:
    named = [
        (f"{r.case.variant}/{r.case.backend}".removesuffix("/reference"), summary(m.rounds))
        for r in records
        if (m := _measured(r, metric)) is not None
    ]
    standings = [Standing(value=s.value, low=s.low, high=s.high) for _, s in named]
    places = ranks(standings, better=better, noise_floor=noise_floor, varies=varies)
    entries = [
        (place, s.value, f"{name} {words(s.value)}")
        for place, (name, s) in zip(places, named, strict=True)
    ]
    return _joined(entries, best_first=better == "lower")


def _joined(entries: list[tuple[int, float, str]], *, best_first: bool) -> str:
    """`1 a = b, 3 c`: ties joined, best first, three ranks at most."""
    if not entries:
        return "no case completed"
    entries.sort(key=lambda e: (e[0], e[1] if best_first else -e[1]))
    groups = [(place, [e[2] for e in some]) for place, some in groupby(entries, lambda e: e[0])]
    shown = "   ".join(f"{place}. {' = '.join(some)}" for place, some in groups[:_SHOWN])
    rest = sum(len(some) for _, some in groups[_SHOWN:])
    return f"{shown}   ({rest} more)" if rest else shown


def _most_accurate(records: Sequence[Record]) -> Iterator[Answer]:
    runs: dict[tuple[str, str], list[float]] = {}
    for record in records:
        measured = _measured(record, "accuracy")
        if isinstance(record.case.stimulus, TaskRun) and measured is not None:
            key = (record.case.stimulus.task, record.case.variant)
            runs.setdefault(key, []).append(summary(measured.rounds).value)
    for task in sorted({task for task, _ in runs}):
        of_task = {v: mean_of_seeds(values) for (t, v), values in runs.items() if t == task}
        standings = [Standing(value=m, low=low, high=high) for m, low, high in of_task.values()]
        places = ranks(standings, better="higher", noise_floor=None, varies=True)
        entries = [
            (place, mean, f"{variant} {mean:.1%}")
            for place, (variant, (mean, _, _)) in zip(places, of_task.items(), strict=True)
        ]
        seeds = len(next(iter(v for (t, _), v in runs.items() if t == task)))
        words = "1 seed" if seeds == 1 else f"{seeds} seeds"
        yield Answer(
            question=f"most accurate, {task} ({words})",
            ranking=_joined(entries, best_first=False),
        )


def _measured(record: Record, metric: str) -> Measured | None:
    if not isinstance(record.outcome, Ok):
        return None
    found = (m for m in record.outcome.measurements if m.metric == metric)
    return next((m for m in found if not isinstance(m, Unavailable)), None)


def _seconds_words(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _bytes_words(count: float) -> str:
    return f"{count / 2**20:.3g} MiB"


def _busy_words(finished: Finished) -> str:
    busy = "  (busy: other programs used the CPU; numbers are marked)"
    return busy if finished.conditions.busy else ""


def _noise_words(pairs: Noise | None) -> str:
    if pairs is None:
        return "not known: too few A/A pairs in this selection"
    return (
        f"{pairs.interleaved:.1%}: latencies closer than this share a rank "
        f"(one after the other instead of in turn: {pairs.sequential:.1%})"
    )


def cell_words(records: Sequence[Record]) -> str:
    """Count the outcomes: how many measured, and the others by kind."""
    kinds = Counter(r.outcome.kind for r in records)
    failed = {kind: n for kind, n in sorted(kinds.items()) if kind != "ok"}
    listed = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in failed.items())
    return f"{kinds['ok']} of {len(records)} measured" + (f"; {listed}" if listed else "")


def failure_lines(records: Sequence[Record]) -> Iterator[str]:
    """One line a reason, most frequent first, six at most."""
    reasons: Counter[str] = Counter()
    for record in records:
        outcome = record.outcome
        match outcome.kind:
            case "ok":
                continue
            case "unsupported":
                reason = "; ".join(outcome.reasons)
            case "timed_out":
                reason = f"took longer than {outcome.limit_s:g} s"
            case _:
                reason = outcome.reason
        words = f"{record.case.variant}: {outcome.kind.replace('_', ' ')}: {reason}"
        reasons[words[:200]] += 1
    for words, count in reasons.most_common(6):
        yield f"{count} x {words}"
    if len(reasons) > 6:
        yield f"and {len(reasons) - 6} other reasons, all on the page"


def counter_lines(records: Sequence[Record]) -> Iterator[str]:
    """One line a variant whose FLOPs formula is not what both counters see, and undeclared."""
    told: set[str] = set()
    for record in records:
        variant, formula = record.case.variant, _measured(record, "flops")
        if formula is None or variant in told or load(variant).uncounted is not None:
            continue
        by_formula = summary(formula.rounds).value
        counts = {
            counter: summary(found.rounds).value
            for counter in ("flops_torch", "flops_fvcore")
            if (found := _measured(record, counter)) is not None
        }
        if any(count != by_formula for count in counts.values()):
            told.add(variant)
            listed = ", ".join(f"{name} {count:,.0f}" for name, count in counts.items())
            yield (
                f"{variant}: the formula gives {by_formula:,.0f}, {listed}, in "
                f"{record.case.id}: correct core_flops, or declare the rest in uncounted"
            )
