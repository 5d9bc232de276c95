"""One document a variant: what it computes, where it comes from, its limits and its results."""

import re
from collections.abc import Iterator, Mapping

from bench.table import VariantEntry
from leaderboard.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    CodeBlock,
    Disclosure,
    Document,
    External,
    Facts,
    Head,
    Inline,
    Link,
    Paragraph,
    Piece,
    Row,
    Section,
    Subsection,
    Table,
    VariantName,
    prose,
)
from leaderboard.contexts import PASSES_WORDS, POLICY_WORDS, context_of, size_of, slug
from leaderboard.format import MISSING, count_of, listed, measure, scale_for, whole
from leaderboard.mathematics import formula
from leaderboard.page import Page
from leaderboard.pages.accuracy import trained
from leaderboard.provenance import case_slug, detail, flags
from leaderboard.results import EXACTNESS_HELP, OUTCOME_WORDS, Result, View
from leaderboard.standings import EXACTNESS_BADGES

_TRAITS: Mapping[str, tuple[str, str]] = {
    "causal": ("Computes a causal form.", "Has no causal form and refuses to pretend."),
    "any_grid": ("A layer built for one grid runs on others.", "A layer is bound to its grid."),
    "extra_tokens": ("Takes class tokens.", "Refuses class tokens."),
    "permutation_equivariant": (
        "Permuting the tokens permutes the output and changes nothing else.",
        "Depends on the order of the tokens.",
    ),
    "rows_sum_to_one": (
        "The implied attention rows sum to 1.",
        "The implied attention rows need not sum to 1.",
    ),
    "nonnegative_weights": (
        "The implied attention weights are never negative.",
        "The implied attention weights may be negative.",
    ),
    "approximates_softmax": (
        "Is meant to give the output of softmax attention.",
        "Is not meant to give the output of softmax attention.",
    ),
    "deterministic_eval": (
        "Two evaluations give the same bits.",
        "Two evaluations differ: it draws random numbers.",
    ),
    "continuous": (
        "Small changes of the input change the output little.",
        "Small changes of the input, and rounding, can change a choice and make the output jump.",
    ),
}


_COMMIT = re.compile(
    r"https://(?:www\.)?github\.com/(?P<repository>[\w.-]+/[\w.-]+)/(?:tree|commit)/"
    r"(?P<commit>[0-9a-f]{7,40})/?"
)


def _documents(view: View) -> Iterator[Document]:
    yield _index(view)
    for entry in view.variants.values():
        yield Document(
            path=f"variants/{entry.name}.html",
            title=entry.title,
            summary=f"{entry.title}: formula, source, limits and measured results.",
            context="Variant",
            blocks=tuple(_blocks(view, entry)),
        )
    for name in sorted({r.variant for r in view.results} - view.variants.keys()):
        yield _gone(view, name)


def _index(view: View) -> Document:
    rows: list[Row] = []
    for entry in view.variants.values():
        mine = [r for r in view.results if r.variant == entry.name]
        measured = sum(r.ok for r in mine)
        exactness = view.exactness(entry.name)
        rows.append(
            Row(
                (
                    Cell((VariantName(entry.name, entry.title),), entry.title),
                    Cell((EXACTNESS_BADGES[exactness],), exactness),
                    Cell((f"N{_power(entry.order)}",), entry.order),
                    Cell((entry.family.replace("_", " "),)),
                    Cell((f"{entry.paper.venue} {entry.paper.year}",), entry.paper.year),
                    Cell((whole(measured),), measured)
                    if mine
                    else Cell(("no results yet",), tone="muted"),
                    Cell((whole(len(mine) - measured),), len(mine) - measured)
                    if mine
                    else Cell((MISSING,), tone="muted"),
                )
            )
        )
    table = Table(
        id="variants-table",
        caption="Variants",
        heads=(
            Head(title="Variant"),
            Head(title="Function", help="As seen from softmax attention."),
            Head(title="Order", help="FLOPs of the core in tokens, default options.", ordered=True),
            Head(title="Family", secondary=True),
            Head(title="Source", secondary=True),
            Head(title="Cells measured", number=True),
            Head(title="Failed", number=True, secondary=True),
        ),
        rows=tuple(rows),
        empty="There are no variants in this tree.",
        show_caption=False,
    )
    return Document(
        path="variants/index.html",
        title="Variants",
        summary="Every attention mechanism of the suite.",
        blocks=(
            Paragraph(
                (
                    (
                        f"{count_of(len(view.variants), 'mechanism')}, each one file with a plain "
                        "PyTorch reference that is compared with its authors' code where there "
                        "is any."
                    ),
                ),
                "lead",
            ),
            table,
        ),
    )


def _power(order: float) -> str:
    digits = str.maketrans("0123456789.", "⁰¹²³⁴⁵⁶⁷⁸⁹·")
    return "" if order == 1 else f"{order:g}".translate(digits)


def _blocks(view: View, entry: VariantEntry) -> Iterator[Block]:
    exactness = view.exactness(entry.name)
    yield Paragraph((EXACTNESS_BADGES[exactness], " ", EXACTNESS_HELP[exactness]))
    yield formula(entry.formula)
    if entry.description:
        yield Disclosure("Symbols and derivation", (CodeBlock(entry.description),))
    yield Facts(tuple(_facts(entry)))
    yield Section("use", "How to call it", (CodeBlock(_snippet(entry)),))
    if entry.options:
        yield Section("options", "Options", (_options(entry),))
    yield Section("traits", "Traits", (
        Paragraph(("Each is tested in both directions.",), "small"),
        Bullets(tuple(
            (_TRAITS[t][0 if holds else 1] if t in _TRAITS else f"{t}: {holds}",)
            for t, holds in entry.traits.items()
        )),
    ))  # fmt: skip
    yield Section("deviations", "Deviations from paper and code", (
        Bullets(tuple(prose(text) for text in entry.deviations))
        if entry.deviations
        else Paragraph(("None known.",)),
    ))  # fmt: skip
    yield Section("results", "Results", tuple(_results(view, entry.name)))


def _facts(entry: VariantEntry) -> Iterator[tuple[str, Inline]]:
    paper = entry.paper
    yield "Paper", (External(paper.title, paper.url), f", {paper.equation}")
    yield "Authors", (listed(paper.authors),)
    yield "Published", (f"{paper.venue} {paper.year}",)
    yield "Authors' code", (_code_link(paper.code),)
    yield "Cost of the core", (f"grows as N{_power(entry.order)} in tokens",)
    yield "When the grid grows", prose(entry.scaling)
    yield "Executions", (listed(b.name for b in entry.backends),)
    yield "Definition", (Code(entry.source), f", revision {entry.revision}")


def _code_link(code: str | None) -> Piece:
    if code is None:
        return "none was published"
    address, _, rest = code.partition(" ")
    commit = _COMMIT.fullmatch(address)
    if commit is not None:
        return External(f"{commit['repository']} at {commit['commit'][:7]}", address)
    return External(f"{address} {rest}" if rest else address, address)


def _snippet(entry: VariantEntry) -> str:
    return (
        "import torch\n"
        "from attention_impls import AttentionShape, Grid, load\n"
        "\n"
        "shape = AttentionShape(batch=1, grid=Grid(14, 14), heads=3, head_dim=64)\n"
        f'layer = load("{entry.name}").build(shape)\n'
        "y = layer(torch.randn(1, 196, 192), shape.grid)  # [batch, tokens, channels]"
    )


def _options(entry: VariantEntry) -> Table:
    return Table(
        id="options-table",
        caption="Options and their published defaults",
        heads=(Head(title="Option"), Head(title="Default"), Head(title="Meaning")),
        rows=tuple(
            Row(
                (
                    Cell((Code(name),), name),
                    Cell((Code(str(value)),)),
                    Cell(prose(entry.options_help.get(name, ""))),
                )
            )
            for name, value in entry.options.items()
        ),
        empty="",
        show_caption=False,
        sortable=False,
    )


def _results(view: View, name: str) -> Iterator[Block]:
    mine = [r for r in view.results if r.variant == name]
    if not mine:
        yield Paragraph(("No results yet.",))
        return
    for hardware_id in view.machines:
        here = [r for r in mine if r.hardware_id == hardware_id]
        if not here:
            continue
        id_ = slug(hardware_id)
        blocks: list[Block] = [
            Paragraph((Link("About this machine", f"machines/{id_}.html"),), "small")
        ]
        timed = [r for r in here if r.stimulus == "workload"]
        if timed:
            blocks.append(_timed(view, timed, f"timed-{id_}"))
        blocks += _accuracies(view, here)
        yield Subsection(f"on-{id_}", view.machine_title(hardware_id), tuple(blocks))


def _timed(view: View, results: list[Result], id_: str) -> Table:
    ordered = sorted(results, key=_order)
    latencies = [r.numbers["latency"].value for r in ordered if "latency" in r.numbers]
    peaks = [r.numbers["peak_memory"].value for r in ordered if "peak_memory" in r.numbers]
    clock, memory = scale_for("s", latencies), scale_for("byte", peaks)
    error = scale_for("relative", ())
    rows: list[Row] = []
    for result in ordered:
        context = context_of(result)
        if context is None:
            continue
        latency = result.numbers.get("latency") if result.ok else None
        peak = result.numbers.get("peak_memory") if result.ok else None
        wrong = result.numbers.get("error") if result.ok else None
        words = OUTCOME_WORDS.get(result.outcome, result.outcome)
        policy = "" if context.batch_policy == "one" else f", {POLICY_WORDS[context.batch_policy]}"
        nothing = Cell((MISSING,), tone="muted")
        rows.append(
            Row(
                (
                    Cell((size_of(result).title, *flags(result)), result.tokens),
                    Cell(((f"{PASSES_WORDS[context.passes]}, {context.level}, {context.dtype}"
                          f"{policy}{', causal' if context.causal else ''}"),)),
                    Cell((result.backend, *((f" {result.options}",) if result.options else ())),),
                    Cell((words,), tone="failure") if not result.ok else
                    nothing if latency is None else
                    Cell((clock.text(latency.value),), latency.value),
                    nothing if peak is None else Cell((memory.text(peak.value),), peak.value),
                    nothing if wrong is None else Cell((error.text(wrong.value),), wrong.value),
                    Cell((detail(view, result, id_=f"{id_}-{case_slug(result)}"),)),
                ),
                "plain" if result.ok else "failed",
            )
        )  # fmt: skip
    return Table(
        id=id_,
        caption="Timed cases",
        heads=(
            Head(title="Size", ordered=True),
            Head(title="What ran"),
            Head(title="Execution", secondary=True),
            Head(title="Latency", unit=clock.unit, number=True),
            Head(title="Peak memory", unit=memory.unit, number=True, secondary=True),
            Head(title="Error", number=True, secondary=True,
                 help="Largest difference from the float64 reference, relative."),
            Head(title="Details", sortable=False),
        ),
        rows=tuple(rows),
        empty="No results yet.",
        show_caption=False,
    )  # fmt: skip


def _order(result: Result) -> tuple[object, ...]:
    context = context_of(result)
    return (context.order if context else (), size_of(result).order, result.backend, result.options)


def _accuracies(view: View, here: list[Result]) -> Iterator[Block]:
    for task in sorted(view.tasks):
        for one in trained(here, task):
            interval = ""
            if one.low is not None and one.high is not None:
                interval = f" ({measure('fraction', one.low)} to {measure('fraction', one.high)})"
            yield Paragraph(
                (
                    (
                        f"Accuracy on {view.tasks[task].title}: {measure('fraction', one.mean)}"
                        f"{interval}, mean of {count_of(len(one.seeds), 'seed')}. "
                    ),
                    Link("Compare", "accuracy.html"),
                )
            )


def _gone(view: View, name: str) -> Document:
    return Document(
        path=f"variants/{name}.html",
        title=name,
        summary=f"{name}: results of a variant that is no longer in the tree.",
        context="Variant",
        blocks=(
            Paragraph(("This variant is no longer in the tree; its results are stale.",), "lead"),
            Section("results", "Results", tuple(_results(view, name))),
        ),
    )


PAGE = Page(title="Variants", path="variants/index.html", order=6, documents=_documents)
