"""Every result with what stands behind it: samples, checks, provenance, and how to repeat it.

One document an execution, context and run; one panel a case. Results that a newer run replaced
stay where they are.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import log

from bench.model import REPRODUCTION
from bench.table import Recorded, recorded
from leaderboard.addresses import machine, result_address, result_id, results_document
from leaderboard.addresses import run as run_address
from leaderboard.blocks import (
    Block,
    Bullets,
    Cell,
    Chooser,
    Code,
    CodeBlock,
    Document,
    Facts,
    Head,
    Inline,
    Link,
    Matrix,
    Notice,
    Panel,
    Paragraph,
    Row,
    Subsection,
    Table,
    Ticks,
    VariantName,
)
from leaderboard.contexts import (
    LEVEL_WORDS,
    PASSES_WORDS,
    POLICY_WORDS,
    context_of,
    size_of,
)
from leaderboard.format import (
    MISSING,
    Quantity,
    count_of,
    day,
    known_quantity,
    measure,
    percent,
    whole,
)
from leaderboard.page import Page
from leaderboard.provenance import failure_words, trust_words
from leaderboard.results import Number, Result, View
from leaderboard.standings import EXACTNESS_BADGES

_MOST_TICKS = 120
"""Samples of a round that are drawn; the file has all."""


def _documents(view: View) -> Iterator[Document]:
    history: dict[tuple[str, str], list[Result]] = {}
    documents: dict[str, list[Result]] = {}
    for result in (*view.results, *view.superseded):
        history.setdefault((result.hardware_id, result.case_id), []).append(result)
        documents.setdefault(results_document(result), []).append(result)
    found: Mapping[str, Recorded] = {}
    read: tuple[str, str] | None = None
    for path in sorted(documents, key=lambda p: (documents[p][0].run_id, p)):
        results = sorted(documents[path], key=_order)
        first = results[0]
        # sorted by run and variant: each file is read once
        wanted = (first.run_id, first.variant)
        if wanted != read:
            folder = f"{first.hardware_id}/{first.run_id}"
            found, read = recorded(view.table.root, folder, first.variant), wanted
        yield _document(view, path, results, found, history)


def _order(result: Result) -> tuple[object, ...]:
    return (
        size_of(result).order if result.stimulus == "workload" else (),
        result.memory_budget_bytes or 0,
        result.seed or 0,
        result.case_id,
    )


def _document(
    view: View,
    path: str,
    results: Sequence[Result],
    found: Mapping[str, Recorded],
    history: Mapping[tuple[str, str], Sequence[Result]],
) -> Document:
    first = results[0]
    panels = tuple(
        _panel(view, r, found.get(r.case_id), history[r.hardware_id, r.case_id]) for r in results
    )
    name = f"{view.title(first.variant)}{f', {first.detail}' if first.detail else ''}"
    facet = "Seed" if first.task else "Size" if first.stimulus == "workload" else "Memory"
    return Document(
        path=path,
        title=name,
        summary=f"Results of {name} on {view.machine_title(first.hardware_id)}: {_setting(first)}.",
        context=f"Results on {view.machine_title(first.hardware_id)}",
        blocks=(
            Paragraph((*_names(view, first), f" {_setting(first)}.")),
            Chooser(id="cases", facets=(facet,), panels=panels),
        ),
    )


def _names(view: View, result: Result) -> Inline:
    return (
        VariantName(result.variant, view.title(result.variant), result.detail),
        " ",
        EXACTNESS_BADGES[view.exactness(result.variant)],
    )


def _setting(result: Result) -> str:
    context = context_of(result)
    if context is not None:
        return (
            f"{PASSES_WORDS[context.passes].capitalize()}, {LEVEL_WORDS[context.level]}, "
            f"{POLICY_WORDS[context.batch_policy]}, {context.dtype}, {context.width}"
        )
    if result.task is not None:
        return f"Trainings for task {result.task}"
    passes = PASSES_WORDS.get(result.passes or "", result.passes or "")
    return f"Search for the most tokens that fit: {passes}, {result.dtype}"


def _title(result: Result) -> str:
    if result.stimulus == "workload":
        return size_of(result).title
    if result.task is not None:
        return f"seed {result.seed}"
    return f"in {measure('byte', result.memory_budget_bytes or 0)}"


def _panel(view: View, result: Result, found: Recorded | None, others: Sequence[Result]) -> Panel:
    id_ = result_id(result)
    return Panel(
        id=id_,
        title=_title(result)[0].upper() + _title(result)[1:],
        values=((id_, _title(result)),),
        blocks=tuple(_blocks(view, result, found, others, id_)),
    )


def _blocks(
    view: View, result: Result, found: Recorded | None, others: Sequence[Result], id_: str
) -> Iterator[Block]:
    newest = max(others, key=lambda r: (r.plan != REPRODUCTION, r.created, r.run_id))
    if newest.run_id != result.run_id:
        yield Notice(
            ("A newer run measured this case again. ", Link("The newest", result_address(newest)))
        )
    yield Paragraph(_headline(result), "finding")
    if not result.ok:
        yield Paragraph((result.reason or "No reason was recorded.",))
    if found is not None and "latency" in found.rounds:
        yield Subsection(
            f"{id_}-samples", "Samples of latency", tuple(_samples(result, found, id_))
        )
    if result.numbers:
        yield Matrix("Everything that was measured", _HEADS, tuple(_numbers(view, result)))
    yield Subsection(f"{id_}-checks", "Checks", (Bullets(tuple(_checks(view, result, found))),))
    if view.table.trust is not None:
        words = Bullets(tuple(trust_words(view, result)))
        yield Subsection(f"{id_}-trust", "How far it can be trusted", (words,))
    yield Subsection(
        f"{id_}-repeat", "Repeat it",
        (CodeBlock(f"attnbench repro '{result.case_id}'"), *_repetitions(result, others, id_)),
    )  # fmt: skip
    yield Subsection(f"{id_}-source", "Where it comes from", (Facts(tuple(_source(view, result))),))


_MAIN: tuple[tuple[str, str, Quantity], ...] = (
    ("latency", "Latency", "s"),
    ("largest_tokens", "Most tokens", "count"),
    ("accuracy", "Accuracy", "fraction"),
)


def _headline(result: Result) -> Inline:
    if not result.ok:
        word = failure_words(result)
        return (f"{word[0].upper()}{word[1:]}.",)
    for metric, word, quantity in _MAIN:
        number = result.numbers.get(metric)
        if number is not None:
            return (f"{word} {_with_interval(quantity, number)}.",)
    return ("Ran; nothing that ranks was measured.",)


def _with_interval(quantity: Quantity, number: Number) -> str:
    text = measure(quantity, number.value)
    if number.low is None or number.high is None:
        return text
    low, high = measure(quantity, number.low), measure(quantity, number.high)
    return f"{text}, 95 % interval {low} to {high}"


# Samples ------------------------------------------------------------------------------------------


def _samples(result: Result, found: Recorded, id_: str) -> Iterator[Block]:
    rounds = found.rounds["latency"]
    everything = [s for samples in rounds for s in samples if s > 0]
    low, high = log(min(everything)), log(max(everything))

    def place(value: float) -> float:
        return 0.5 if high == low or value <= 0 else (log(value) - low) / (high - low)

    rows: list[Row] = []
    for number, samples in enumerate(rounds, start=1):
        ordered = sorted(samples)
        middle = _median(ordered)
        at = tuple(place(s) for s in samples[:_MOST_TICKS])
        rows.append(
            Row(
                (
                    Cell((str(number),), number),
                    Cell((measure("s", middle),), middle),
                    Cell((Ticks(result.variant, at, place(middle)),)),
                    Cell((f"{measure('s', ordered[0])} to {measure('s', ordered[-1])}",)),
                    Cell((whole(len(samples)),), len(samples)),
                )
            )
        )
    yield Table(
        id=f"{id_}-rounds",
        caption="Samples, round by round",
        heads=(
            Head(title="Round"),
            Head(title="Median", number=True),
            Head(title="Samples, on one axis", help="Logarithmic; the tall mark is the median."),
            Head(title="Smallest to largest", secondary=True),
            Head(title="Samples", number=True, secondary=True),
        ),
        rows=tuple(rows),
        empty="No sample.",
        show_caption=False,
        sortable=False,
    )


def _median(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


_HEADS = ("Metric", "Value", "95 % interval", "10 % to 90 % of samples", "Samples")


def _numbers(view: View, result: Result) -> Iterator[tuple[str, ...]]:
    for metric, number in result.numbers.items():
        column = view.columns.get(metric)
        title = metric if column is None else column.title
        quantity = known_quantity(None if column is None else column.unit)
        spread = samples = MISSING
        if number.samples > 1 and number.p10 is not None and number.p90 is not None:
            spread = f"{measure(quantity, number.p10)} to {measure(quantity, number.p90)}"
            samples = f"{whole(number.samples)} in {count_of(number.rounds, 'round')}"
        ends = MISSING
        if number.low is not None and number.high is not None:
            ends = f"{measure(quantity, number.low)} to {measure(quantity, number.high)}"
        yield title, measure(quantity, number.value), ends, spread, samples
    for metric, reason in result.unavailable.items():
        column = view.columns.get(metric)
        yield (metric if column is None else column.title), reason, MISSING, MISSING, MISSING


# Checks -------------------------------------------------------------------------------------------


def _checks(view: View, result: Result, found: Recorded | None) -> Iterator[Inline]:
    if result.ok and result.stimulus == "workload":
        error = result.numbers.get("error")
        words = "passed: output agrees with the float64 reference"
        if error is not None:
            words += f", largest difference {measure('relative', error.value)} of its scale"
        if found is not None and found.checked:
            words += f", compared at {found.checked}"
        yield (f"{words}.",)
        gradient = result.numbers.get("gradient_error")
        if gradient is not None:
            value = measure("relative", gradient.value)
            yield (f"passed: gradients agree with the float64 reference, {value}.",)
    elif not result.ok:
        yield ("not timed: only what runs and agrees with the reference is.",)
    efficiency = result.numbers.get("efficiency")
    if efficiency is not None:
        share = percent(efficiency.value)
        fast = any(n.implausible for n in result.numbers.values())
        bound = f", bound by {efficiency.bound}" if efficiency.bound else ""
        yield (
            f"FAILED: {share} of what this machine can do{bound}: faster than its own ceilings; "
            "not ranked."
            if fast
            else f"passed: {share} of what this machine can do{bound}.",
        )
    yield (
        "MARKED: other work kept the machine busy."
        if result.busy
        else "passed: the machine was quiet.",
    )
    yield (
        "MARKED: measured with an older revision or protocol; not ranked."
        if result.stale
        else f"passed: revision {result.revision} of the variant and the protocol are current.",
    )
    entry = view.runs.get(result.run_id)
    if entry is not None:
        yield (
            "MARKED: the code differed from the commit."
            if entry.run.dirty
            else "passed: the checkout was clean."
            if entry.run.commit
            else "MARKED: not measured in a git checkout.",
        )
        yield ("passed: the file is the one whose sha256 the run lists.",)


def _repetitions(result: Result, others: Sequence[Result], id_: str) -> Iterator[Block]:
    """Other runs of the very same case on the same machine."""
    mine = result.numbers.get("latency")
    rows: list[Row] = []
    for other in sorted(others, key=lambda r: (r.created, r.run_id), reverse=True):
        if other.run_id == result.run_id:
            continue
        number = other.numbers.get("latency")
        ratio = number.value / mine.value if number is not None and mine is not None else None
        rows.append(
            Row(
                (
                    Cell(
                        (Link(other.run_id, result_address(other)), *_repeated(other)),
                        other.created,
                    ),
                    Cell((measure("s", number.value),), number.value)
                    if number
                    else Cell((failure_words(other) if not other.ok else MISSING,), tone="muted"),
                    Cell((MISSING,), tone="muted")
                    if ratio is None
                    else Cell((measure("ratio", ratio),), ratio),
                )
            )
        )
    if rows:
        yield Table(
            id=f"{id_}-repetitions",
            caption="Other runs of this case on this machine",
            heads=(
                Head(title="Run"),
                Head(title="Latency", number=True),
                Head(title="To this one", number=True),
            ),
            rows=tuple(rows),
            empty="",
            sortable=False,
        )


def _repeated(result: Result) -> Inline:
    return (" (reproduction)",) if result.plan == REPRODUCTION else ()


def _source(view: View, result: Result) -> Iterator[tuple[str, Inline]]:
    yield "Case", (Code(result.case_id),)
    if result.executed:
        yield "What ran", (result.executed,)
    entry = view.runs.get(result.run_id)
    yield "Run", (Link(result.run_id, run_address(result.run_id)),)
    yield "Measured", (f"{day(result.created)}, plan {result.plan}",)
    title = view.machine_title(result.hardware_id)
    yield "Machine", (Link(title, machine(result.hardware_id)),)
    if entry is not None:
        commit = entry.run.commit
        yield "Commit", (Code(commit[:12]) if commit else "none: not a git checkout",)
        environment = entry.run.environment
        words = f"torch {environment.torch}, Python {environment.python}, {environment.os}"
        yield "Environment", (words,)
        raw = f"data/results/{entry.folder}/{result.variant}.json"
        yield "File", (Link(f"{result.variant}.json", raw, download=True), ", every sample")
    yield "Revision", (f"{result.revision} of the variant",)


PAGE = Page(title="Results", path="history.html", order=None, documents=_documents)
