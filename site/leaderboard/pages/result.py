"""Every result with what stands behind it: samples, checks, provenance, and how to repeat it.

One document an execution, context and run; one panel a case. Results that a newer run replaced
stay where they are.
"""

from collections.abc import Iterator, Mapping, Sequence

from bench.model import REPRODUCTION
from bench.table import Recorded
from bench.tabulation import recorded
from leaderboard.addresses import machine, result_address, result_id, results_document
from leaderboard.addresses import run as run_address
from leaderboard.blocks import (
    Block,
    Bullets,
    Chooser,
    CodeBlock,
    Document,
    Facts,
    Notice,
    Panel,
    Paragraph,
    Subsection,
)
from leaderboard.checks import checks_of
from leaderboard.contexts import LEVEL_WORDS, PASSES_WORDS, POLICY_WORDS, context_of, size_of
from leaderboard.format import MISSING, Quantity, count_of, measure, minute, span
from leaderboard.page import Page
from leaderboard.pieces import Code, Inline, Link, VariantName
from leaderboard.provenance import failure_words, trust_words
from leaderboard.results import Number, Result, View
from leaderboard.samples import NUMBER_HEADS, numbers_of, samples_of
from leaderboard.standings import EXACTNESS_BADGES
from leaderboard.tables import Cell, Head, Matrix, Row, Table


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
        result.backbone or "",
        result.resolution_px or 0,
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
    facet = _FACETS.get(first.stimulus, "Result")
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


_FACETS = {"workload": "Size", "images": "Network", "task": "Seed", "frontier": "Memory"}
"""What the results of one document differ in."""


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
    if result.stimulus == "images":
        return f"{passes.capitalize()}, whole network, {result.dtype}"
    return f"Search for the most tokens that fit: {passes}, {result.dtype}"


def _title(view: View, result: Result) -> str:
    if result.stimulus == "workload":
        return size_of(result).title
    if result.stimulus == "images":
        images = count_of(result.batch or 1, "image")
        return f"{view.network_title(result.backbone or '')}, {result.resolution_px} px, {images}"
    if result.task is not None:
        return f"seed {result.seed}"
    return f"in {measure('byte', result.memory_budget_bytes or 0)}"


def _panel(view: View, result: Result, found: Recorded | None, others: Sequence[Result]) -> Panel:
    id_, title = result_id(result), _title(view, result)
    return Panel(
        id=id_,
        title=title[0].upper() + title[1:],
        values=((id_, title),),
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
            f"{id_}-samples", "Samples of latency", tuple(samples_of(result, found, id_))
        )
    if result.numbers:
        yield Matrix("Everything that was measured", NUMBER_HEADS, tuple(numbers_of(view, result)))
    yield Subsection(f"{id_}-checks", "Checks", (Bullets(tuple(checks_of(view, result, found))),))
    if view.table.trust is not None:
        words = Bullets(tuple(trust_words(view, result)))
        yield Subsection(f"{id_}-trust", "How far it can be trusted", (words,))
    yield Subsection(
        f"{id_}-repeat", "Repeat it",
        (
            CodeBlock(f"nox -s repro -- '{result.case_id}' --of {result.run_id}"),
            *_repetitions(result, others, id_),
        ),
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
    return f"{text}, 95 % interval {span(quantity, number.low, number.high)}"


# Checks -------------------------------------------------------------------------------------------


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
    yield "Measured", (f"{minute(result.created)} UTC, plan {result.plan}",)
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
