"""A variant as its spec declares it: source, call, options, traits and costs."""

import re
from collections.abc import Iterator, Mapping

from bench.table import VariantEntry
from leaderboard.blocks import Block, Bullets, Paragraph
from leaderboard.contexts import Size, size_of
from leaderboard.format import MISSING, Quantity, listed, measure, power
from leaderboard.pieces import Code, External, Inline, Piece, prose
from leaderboard.results import Result, View
from leaderboard.tables import Cell, Head, Row, Table

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


def facts(entry: VariantEntry) -> Iterator[tuple[str, Inline]]:
    """Yield where the variant comes from and what it needs, name by name."""
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


def snippet(entry: VariantEntry) -> str:
    """Return lines of Python that call the layer."""
    return (
        "import torch\n"
        "from attention_impls import AttentionShape, Grid, load\n"
        "\n"
        "shape = AttentionShape(batch=1, grid=Grid(14, 14), heads=3, head_dim=64)\n"
        f'layer = load("{entry.name}").build(shape)\n'
        "y = layer(torch.randn(1, 196, 192), shape.grid)  # [batch, tokens, channels]"
    )


def options(entry: VariantEntry) -> Table:
    """Return the options with their defaults and meanings."""
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


def costs(view: View, entry: VariantEntry) -> Iterator[Block]:
    """Yield arithmetic, parameters and memory of the reference layer: the same everywhere."""
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


def traits(entry: VariantEntry) -> Iterator[Block]:
    """Yield what is true of the variant, as sentences."""
    yield Paragraph(("Each is tested in both directions.",), "small")
    yield Bullets(
        tuple(
            (_TRAITS[t][0 if holds else 1] if t in _TRAITS else f"{t}: {holds}",)
            for t, holds in entry.traits.items()
        )
    )
