"""One document a variant: what it computes, where it comes from, its limits and its results."""

import re
from collections.abc import Iterator, Mapping

from bench.table import VariantEntry
from leaderboard import badges
from leaderboard.addresses import result_address
from leaderboard.addresses import task as task_address
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
from leaderboard.contexts import (
    PASSES_WORDS,
    POLICY_WORDS,
    Context,
    Size,
    context_of,
    size_of,
    slug,
)
from leaderboard.format import MISSING, Quantity, count_of, listed, measure, power, whole
from leaderboard.mathematics import formula
from leaderboard.page import Page, RawFile
from leaderboard.provenance import flags
from leaderboard.results import EXACTNESS_HELP, OUTCOME_WORDS, Result, View
from leaderboard.standings import EXACTNESS_BADGES
from leaderboard.trainings import trained

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
    badged = frozenset(file.path for file in badges.files(view))
    for entry in view.variants.values():
        yield Document(
            path=f"variants/{entry.name}.html",
            title=entry.title,
            summary=f"{entry.title}: formula, source, limits and measured results.",
            context="Variant",
            blocks=tuple(_blocks(view, entry, badged)),
        )
    shown = (*view.results, *view.superseded)
    for name in sorted({r.variant for r in shown} - view.variants.keys()):
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
                    Cell((power(entry.order),), entry.order),
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


def _blocks(view: View, entry: VariantEntry, badged: frozenset[str]) -> Iterator[Block]:
    exactness = view.exactness(entry.name)
    yield Paragraph((EXACTNESS_BADGES[exactness], " ", EXACTNESS_HELP[exactness]))
    yield formula(entry.formula)
    if entry.description:
        yield Disclosure("Symbols and derivation", (CodeBlock(entry.description),))
    yield Facts(tuple(_facts(entry)))
    yield Section("use", "How to call it", (CodeBlock(_snippet(entry)),))
    if entry.options:
        yield Section("options", "Options", (_options(entry),))
    yield Section("cost", "What it costs", tuple(_costs(view, entry)))
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
    yield Section("results", "Results", tuple(_results(view, entry.name, badged)))


def _costs(view: View, entry: VariantEntry) -> Iterator[Block]:
    """Arithmetic, parameters and memory of the reference layer; they are the same everywhere."""
    found: dict[Size, Result] = {}
    for r in view.results:
        if (
            r.variant == entry.name and r.stimulus == "workload" and r.backend == "reference"
            and not r.options and r.level == "layer" and r.passes == "forward" and r.ok
            and r.batch_policy == "one" and not r.causal and "flops" in r.numbers
        ):  # fmt: skip
            found.setdefault(size_of(r), r)
    if not found:
        yield Paragraph(("Nothing has been measured yet.",))
        return
    first = next(iter(found.values()))
    yield Paragraph(
        (
            (
                f"One sequence through the reference layer, forward, {first.heads} heads of "
                f"{first.head_dim} channels. Papers print MACs."
            ),
        ),
        "small",
    )
    sizes = sorted(found, key=lambda s: s.order)

    def column(metric: str, quantity: Quantity, share: float = 1.0) -> list[Cell]:
        cells: list[Cell] = []
        for size in sizes:
            number = found[size].numbers.get(metric)
            cells.append(
                Cell((MISSING,), tone="muted")
                if number is None
                else Cell((measure(quantity, share * number.value),), share * number.value)
            )
        return cells

    columns = [
        ("FLOPs", False, column("flops", "flop")),
        ("MACs", True, column("flops", "mac", 0.5)),
        ("Parameters", False, column("parameters", "count")),
        ("State", True, column("state_floats", "count")),
        ("Peak memory", False, column("peak_memory", "byte")),
    ]
    help_ = {"State": "Numbers kept between tokens, where the mechanism has a state."}
    yield Table(
        id="cost-table",
        caption="Cost of one layer",
        heads=(
            Head(title="Size", ordered=True),
            *(Head(title=t, number=True, secondary=s, help=help_.get(t)) for t, s, _ in columns),
        ),
        rows=tuple(
            Row((Cell((size.title,), size.tokens), *(cells[at] for _, _, cells in columns)))
            for at, size in enumerate(sizes)
        ),
        empty="",
        show_caption=False,
        sortable=False,
    )


def _facts(entry: VariantEntry) -> Iterator[tuple[str, Inline]]:
    paper = entry.paper
    yield "Paper", (External(paper.title, paper.url), f", {paper.equation}")
    yield "Authors", (listed(paper.authors),)
    yield "Published", (f"{paper.venue} {paper.year}",)
    yield "Authors' code", (_code_link(paper.code),)
    yield "Cost of the core", (f"grows as {power(entry.order)} in tokens",)
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


def _results(view: View, name: str, badged: frozenset[str]) -> Iterator[Block]:
    mine = [r for r in view.results if r.variant == name]
    if not mine:
        yield Paragraph(("No results yet.",))
        return
    for hardware_id in view.machines:
        here = [r for r in mine if r.hardware_id == hardware_id]
        if not here:
            continue
        id_ = slug(hardware_id)
        busy = "Other work kept this machine busy. " if any(r.busy for r in here) else ""
        badge = badges.badge_path(name, hardware_id)
        blocks: list[Block] = [
            Paragraph(
                (
                    f"Latency of one call; each cell leads to its samples and provenance. {busy}",
                    Link("About this machine", f"machines/{id_}.html"),
                    *((" \N{MIDDLE DOT} ", Link("Badge", badge)) if badge in badged else ()),
                ),
                "small",
            )
        ]
        for kind, title in (("images", "Images"), ("sequences", "Sequences and other grids")):
            timed = [
                r for r in here if r.stimulus == "workload" and r.is_image == (kind == "images")
            ]
            if timed:
                blocks.append(_timed(timed, f"{kind}-{id_}", title))
        blocks += _accuracies(view, here)
        blocks += _searches(here)
        yield Subsection(f"on-{id_}", view.machine_title(hardware_id), tuple(blocks))


def _timed(results: list[Result], id_: str, title: str) -> Table:
    """One row an execution and context, one column a size."""
    sizes = sorted({size_of(r) for r in results}, key=lambda s: s.order)
    lines: dict[tuple[Context, str, str], dict[Size, Result]] = {}
    for result in results:
        context = context_of(result)
        if context is not None:
            key = (context, result.backend, result.options)
            lines.setdefault(key, {})[size_of(result)] = result
    rows: list[Row] = []
    for context, backend, options in sorted(lines, key=lambda key: (key[0].order, *key[1:])):
        at = lines[context, backend, options]
        policy = POLICY_WORDS[context.batch_policy]
        passes = PASSES_WORDS[context.passes]
        mask = ", causal" if context.causal else ""
        words = f"{passes}, {context.level}, {policy}, {context.dtype}{mask}"
        rows.append(
            Row(
                (
                    Cell((backend, *((f" {options}",) if options else ())), f"{backend} {options}"),
                    Cell((words,)),
                    *(_latency(at.get(size)) for size in sizes),
                )
            )
        )
    return Table(
        id=id_,
        caption=title,
        heads=(
            Head(title="Execution"),
            Head(title="What ran", secondary=True),
            *(Head(title=_short(size), number=True, help=size.title) for size in sizes),
        ),
        rows=tuple(rows),
        empty="No results yet.",
        sticky=True,
    )


def _short(size: Size) -> str:
    return f"{size.resolution_px} px" if size.resolution_px else whole(size.tokens)


def _latency(result: Result | None) -> Cell:
    if result is None:
        return Cell((MISSING,), tone="muted")
    if not result.ok:
        word = OUTCOME_WORDS.get(result.outcome, result.outcome)
        return Cell((Link(word, result_address(result)),), tone="failure")
    number = result.numbers.get("latency")
    if number is None:
        return Cell((Link("not timed", result_address(result)),), tone="muted")
    link = Link(measure("s", number.value), result_address(result))
    return Cell((link, *flags(result, busy=False)), number.value)


def _searches(here: list[Result]) -> Iterator[Block]:
    found = [r for r in here if r.stimulus == "frontier" and "largest_tokens" in r.numbers]
    for result in sorted(found, key=lambda r: (r.backend, r.passes != "forward", r.case_id)):
        most = whole(round(result.numbers["largest_tokens"].value))
        budget = measure("byte", result.memory_budget_bytes or 0)
        passes = PASSES_WORDS.get(result.passes or "", "")
        words = f"Most tokens in {budget}, {passes}, {result.backend}: "
        yield Paragraph((words, Link(most, result_address(result)), "."))


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
                    Link("Compare", task_address(task)),
                )
            )


def _files(view: View) -> Iterator[RawFile]:
    yield from badges.files(view)


def _gone(view: View, name: str) -> Document:
    return Document(
        path=f"variants/{name}.html",
        title=name,
        summary=f"{name}: results of a variant that is no longer in the tree.",
        context="Variant",
        blocks=(
            Paragraph(("This variant is no longer in the tree; its results are stale.",), "lead"),
            Section("results", "Results", tuple(_results(view, name, frozenset()))),
        ),
    )


PAGE = Page(
    title="Variants",
    path="variants/index.html",
    order=9,
    documents=_documents,
    files=_files,
    about="Formula, cost, source, limits and results of each.",
)
