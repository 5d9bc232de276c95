"""What runs at which size and what does not, and the most tokens that fit into common memories."""

from collections.abc import Iterator, Mapping, Sequence

from bench.curves import fitting
from leaderboard.addresses import result_address
from leaderboard.along import Over, conditions, context_documents
from leaderboard.blocks import Block, Document, Paragraph, Section
from leaderboard.contexts import Context, Size
from leaderboard.downloads import context_base, frontier_base, links
from leaderboard.format import MISSING, count_of, listed, measure, significant, whole
from leaderboard.page import Page
from leaderboard.pieces import Inline, Link, Muted, State, VariantName
from leaderboard.results import OUTCOME_WORDS, Result, View
from leaderboard.tables import Cell, Head, Row, Table

_LEAD = (
    "A failure is a result. Each cell is one case: a tick where it ran and was correct, a letter "
    "where it did not; follow a cell for the reason. Below: the most tokens whose peak memory "
    "stays within the memory of common devices."
)
LETTERS: Mapping[str, str] = {
    "out_of_memory": "O",
    "timed_out": "T",
    "unsupported": "U",
    "incorrect": "X",
    "crashed": "C",
    "not_run": "N",
}
_BUDGETS_GB = (8, 16, 24, 40, 80)
_GIB = 2**30
_FURTHEST = 64
"""How far beyond the largest measured size, as a factor, memory is extrapolated."""


def _documents(view: View) -> Iterator[Document]:
    yield from context_documents(
        view, "failures", "Failure map", _LEAD, lambda place: _blocks(view, place), _always
    )


def _always(_context: Context, _sizes: Mapping[Size, tuple[Result, ...]]) -> bool:
    return True


def _blocks(view: View, place: Over) -> Iterator[Block]:
    context = place.context
    results = [r for found in place.sizes.values() for r in found]
    yield conditions(context)
    yield Paragraph((_finding(results),), "finding")
    if context.batch_policy == "one":
        yield Paragraph((Link("The most tokens that fit", f"{place.choice.path}#fit"),))
    yield Paragraph(_legend(), "small")
    yield _map(view, place)
    if context.batch_policy == "one":
        yield Section("fit", "The most tokens that fit", tuple(_fit(view, place)))
    yield links(("All rows of this machine and context", context_base(context)))


def _finding(results: Sequence[Result]) -> str:
    failed = [r for r in results if not r.ok]
    if not failed:
        return f"All {whole(len(results))} cases ran and were correct."
    counts = {kind: sum(r.outcome == kind for r in failed) for kind in LETTERS}
    parts = [f"{whole(n)} {OUTCOME_WORDS[kind]}" for kind, n in counts.items() if n]
    return f"{whole(len(failed))} of {count_of(len(results), 'case')} failed: {listed(parts)}."


def _legend() -> Inline:
    pieces: list[State | str] = [
        State("\N{CHECK MARK}", "ran", "ok", None),
        "\N{NO-BREAK SPACE}ran",
    ]
    for kind, letter in LETTERS.items():
        word = OUTCOME_WORDS[kind]
        pieces += [" \N{EM SPACE}", State(letter, word, kind, None), f"\N{NO-BREAK SPACE}{word}"]
    absent = State(MISSING, "not in the plan", "absent", None)
    pieces += [" \N{EM SPACE}", absent, "\N{NO-BREAK SPACE}not in the plan"]
    return tuple(pieces)


def _executions(place: Over) -> Mapping[tuple[str, str, str], Mapping[Size, Result]]:
    found: dict[tuple[str, str, str], dict[Size, Result]] = {}
    for size, results in place.sizes.items():
        for r in results:
            found.setdefault((r.variant, r.backend, r.options), {})[size] = r
    return {key: found[key] for key in sorted(found)}


def _map(view: View, place: Over) -> Table:
    rows: list[Row] = []
    for at in sorted(_executions(place).values(), key=lambda at: _most_failed(view, at)):
        first = next(iter(at.values()))
        failed = sum(not r.ok for r in at.values())
        name = VariantName(first.variant, view.title(first.variant), first.detail)
        cells = [Cell((name,), f"{first.variant} {first.detail or ''}")]
        cells += [Cell((_state(at.get(size)),), tone="state") for size in place.sizes]
        cells.append(Cell((whole(failed),), failed))
        rows.append(Row(tuple(cells)))
    return Table(
        id="map",
        caption="What became of each case",
        heads=(
            Head(title="Variant", shape="name"),
            *(_head(size) for size in place.sizes),
            Head(title="Failed", number=True),
        ),
        rows=tuple(rows),
        empty="No results yet.",
        show_caption=False,
        sticky=True,
    )


def _most_failed(view: View, at: Mapping[Size, Result]) -> tuple[object, ...]:
    """What failed stands first: nobody should have to look for it."""
    first = next(iter(at.values()))
    failed = sum(not r.ok for r in at.values())
    return (-failed, view.title(first.variant).casefold(), first.detail or "")


def _head(size: Size) -> Head:
    if size.resolution_px is not None:
        number, unit = str(size.resolution_px), "px"
    elif size.height == 1:
        number, unit = whole(size.tokens), "tokens"
    else:
        number, unit = f"{size.height}\N{MULTIPLICATION SIGN}{size.width}", "tokens"
    return Head(title=number, unit=unit, help=size.title, sortable=False, shape="state")


def _state(result: Result | None) -> State:
    if result is None:
        return State(MISSING, "not in the plan", "absent", None)
    if result.ok:
        return State("\N{CHECK MARK}", "ran", "ok", result_address(result))
    word = OUTCOME_WORDS.get(result.outcome, result.outcome)
    letter = LETTERS.get(result.outcome, "?")
    return State(letter, word, result.outcome, result_address(result))


# What fits ----------------------------------------------------------------------------------------


def _fit(view: View, place: Over) -> Iterator[Block]:
    yield Paragraph(
        (
            (
                "Peak memory of one call above its inputs and parameters, over the measured sizes "
                "of one kind: between sizes it is interpolated; beyond the largest it is carried "
                "on with the last slope and marked with a tilde, at most "
                f"{_FURTHEST} times the largest measured size. 1 GB is 2\N{SUPERSCRIPT THREE}"
                "\N{SUPERSCRIPT ZERO} bytes."
            ),
        ),
        "small",
    )
    searched = _searched(view, place.context)
    budgets = sorted({r.memory_budget_bytes or 0 for found in searched.values() for r in found})
    rows: list[Row] = []
    unknown = 0
    for key, at in _executions(place).items():
        first = next(iter(at.values()))
        name = VariantName(first.variant, view.title(first.variant), first.detail)
        cells = [Cell((name,), f"{first.variant} {first.detail or ''}")]
        sizes = _one_kind([r for r in at.values() if r.ok and "peak_memory" in r.numbers])
        cells += [_fit_cell(sizes, gb * _GIB) for gb in _BUDGETS_GB]
        cells += [_searched_cell(searched.get(key, ()), budget) for budget in budgets]
        if all(cell.tone == "muted" for cell in cells[1:]):
            unknown += 1
        else:
            rows.append(Row(tuple(cells)))
    yield Table(
        id="fit-table",
        caption="Most tokens within a memory",
        heads=(
            Head(title="Variant", shape="name"),
            *(Head(title=f"{gb} GB", unit="tokens", number=True) for gb in _BUDGETS_GB),
            *(
                Head(title=measure("byte", budget), unit="searched", number=True,
                     help="Found by bisection on the machine.")
                for budget in budgets
            ),
        ),
        rows=tuple(rows),
        empty="No memory was measured.",
        show_caption=False,
        sticky=True,
    )  # fmt: skip
    if unknown:
        words = f"{count_of(unknown, 'execution')} measured at fewer than two sizes: not shown."
        yield Paragraph((words,), "small")
    if searched:
        base = frontier_base(place.context.hardware_id)
        yield links(("The searches on this machine", base))


def _one_kind(results: Sequence[Result]) -> Sequence[Result]:
    """Images, or else sequences: one kind of sizes makes one curve."""
    images = [r for r in results if r.is_image]
    return images if len(images) > 1 else [r for r in results if not r.is_image]


def _searched(view: View, context: Context) -> Mapping[tuple[str, str, str], Sequence[Result]]:
    found: dict[tuple[str, str, str], list[Result]] = {}
    for r in view.results:
        same = (r.hardware_id, r.dtype, r.passes, r.level, r.heads, r.head_dim) == (
            context.hardware_id, context.dtype, context.passes, context.level, context.heads,
            context.head_dim,
        )  # fmt: skip
        if r.stimulus == "frontier" and same and not context.causal:
            found.setdefault((r.variant, r.backend, r.options), []).append(r)
    return found


def _searched_cell(results: Sequence[Result], budget: int) -> Cell:
    for result in results:
        if result.memory_budget_bytes != budget:
            continue
        if not result.ok:
            word = OUTCOME_WORDS.get(result.outcome, result.outcome)
            return Cell((Link(word, result_address(result)),), tone="failure")
        number = result.numbers.get("largest_tokens")
        if number is None:
            return Cell(("not measured",), tone="muted")
        words = whole(round(number.value))
        return Cell((Link(words, result_address(result)),), number.value)
    return Cell((MISSING,), tone="muted")


def _fit_cell(results: Sequence[Result], budget: int) -> Cell:
    tokens = [r.tokens or 0 for r in results]
    found = fitting(tokens, [r.numbers["peak_memory"].value for r in results], budget)
    if found is None:
        return Cell((MISSING,), tone="muted")
    limit = _FURTHEST * max(tokens)
    if found.tokens > limit:
        return Cell((Muted(f"> {_rounded(limit)}"),), float(limit))
    if found.extrapolated:
        return Cell((Muted(f"~ {_rounded(found.tokens)}"),), found.tokens)
    return Cell((_rounded(found.tokens),), found.tokens)


def _rounded(tokens: float) -> str:
    if tokens >= 1e6:
        return f"{significant(tokens / 1e6, 2)}\N{NO-BREAK SPACE}M"
    return significant(tokens, 2)


PAGE = Page(
    title="Failures",
    path="failures.html",
    order=6,
    documents=_documents,
    about="What runs at which size and what does not, and what fits into 8 to 80 GB.",
)
