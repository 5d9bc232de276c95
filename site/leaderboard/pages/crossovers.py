"""Where each execution starts to beat softmax by SDPA: in time, in memory, in energy."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from leaderboard.along import Along, along_documents, conditions
from leaderboard.blocks import Block, Document, Notice, Paragraph, Subsection
from leaderboard.crossings import Against, against
from leaderboard.curves import Family
from leaderboard.downloads import context_base, links
from leaderboard.format import MISSING, count_of, measure, significant, whole
from leaderboard.page import Page
from leaderboard.pieces import Muted, Piece, Strip, VariantName
from leaderboard.results import EXACTNESS_TITLES, Exactness, Result, View
from leaderboard.tables import Cell, Head, Row, Table

_LEAD = (
    "From how many tokens on does a mechanism need less than exact softmax attention by PyTorch's "
    "SDPA? Interpolated between measured sizes, never beyond them; the interval says from where "
    "the order may have changed to where it certainly has. At the latest: at smaller sizes the two "
    "cannot be told apart."
)
_METRICS = (("latency", "Time"), ("peak_memory", "Memory"), ("energy", "Energy"))
_ORDER = (
    "always", "from", "surely", "alone", "up to", "partly", "equal", "undecided", "never",
    "incomparable",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One execution against the baseline, by metric."""

    results: tuple[Result, ...]
    found: Mapping[str, Against]


def _documents(view: View) -> Iterator[Document]:
    yield from along_documents(
        view, "crossovers", "Crossovers", _LEAD, lambda place: _blocks(view, place)
    )


def _blocks(view: View, place: Along) -> Iterator[Block]:
    context, family = place.context, place.family
    yield conditions(context)
    base = _baseline(family)
    if base is None:
        words = "Softmax attention was not measured here at all: there is nothing to compare with."
        yield Notice((words,))
        return
    metrics = [
        (name, word)
        for name, word in _METRICS
        if any(name in r.numbers for line in family.lines() for r in line)
    ]
    varying = {name: view.columns[name].varies for name, _ in metrics if name in view.columns}
    lines = [
        _Line(
            results=line,
            found={
                name: against(line, base, name, varies=varying.get(name, True))
                for name, _ in metrics
            },
        )
        for line in family.lines()
        if line[0].case_id != base[0].case_id
    ]
    yield Paragraph((_finding(view, family, base[0], lines),), "finding")
    for kind, title in EXACTNESS_TITLES.items():
        mine = [one for one in lines if view.exactness(one.results[0].variant) == kind]
        if mine:
            table = _table(view, family, kind, mine, metrics)
            yield Subsection(f"{kind}-part", title, (table,))
    yield links(("All rows of this machine and context", context_base(context)))


def _baseline(family: Family) -> tuple[Result, ...] | None:
    lines = {
        line[0].backend: line
        for line in family.lines()
        if line[0].variant == "softmax" and not line[0].options
    }
    return lines.get("sdpa") or lines.get("reference")


def _finding(view: View, family: Family, base: Result, lines: Sequence[_Line]) -> str:
    first, last = family.sizes[0].tokens, family.sizes[-1].tokens
    others = [one.found["latency"] for one in lines if "latency" in one.found]
    always = sum(f.kind == "always" for f in others)
    parts = [
        f"{always} {'needs' if always == 1 else 'need'} less time at every size",
        f"{sum(f.kind in ('from', 'surely') for f in others)} from some size on",
        f"{sum(f.kind == 'never' for f in others)} at none",
    ]
    alone = sum(f.kind == "alone" for f in others)
    if alone:
        parts.append(f"{alone} {'runs' if alone == 1 else 'run'} where it fails")
    return (
        f"Against {view.label(base)}, from {whole(first)} to {whole(last)} tokens: of "
        f"{count_of(len(others), 'execution')} {', '.join(parts)}{_rest(len(others), others)}."
    )


def _rest(all_: int, found: Sequence[Against]) -> str:
    told = sum(f.kind in ("always", "from", "surely", "never", "alone") for f in found)
    if told == all_:
        return ""
    return "; the others cannot be told from it, win at some sizes only, or share no size with it"


def _table(
    view: View,
    family: Family,
    kind: Exactness,
    lines: Sequence[_Line],
    metrics: Sequence[tuple[str, str]],
) -> Table:
    ends = (math.log(family.sizes[0].tokens), math.log(family.sizes[-1].tokens))
    ordered = sorted(lines, key=lambda one: _order(one, metrics[0][0] if metrics else ""))
    rows: list[Row] = []
    for one in ordered:
        first = one.results[0]
        name = VariantName(first.variant, view.title(first.variant), first.detail)
        cells = [Cell((name,), f"{first.variant} {first.detail or ''}")]
        for number, (metric, _) in enumerate(metrics):
            found = one.found[metric]
            cells.append(Cell(tuple(_words(found)), _sort(found), _tone(found)))
            if number == 0:
                cells.append(Cell(tuple(_strip(first.variant, found, ends))))
            ratio = found.ratio
            cells.append(
                Cell((MISSING,), tone="muted")
                if ratio is None
                else Cell((measure("ratio", ratio),), ratio)
            )
        rows.append(Row(tuple(cells)))
    heads = [Head(title="Variant", shape="name")]
    for number, (_, word) in enumerate(metrics):
        heads.append(Head(title=f"Less {word.lower()}", ordered=True, secondary=number > 0,
                          shape="text",
                          help="Compared with softmax by SDPA at the same size."))  # fmt: skip
        if number == 0:
            heads.append(Head(title="On one axis", sortable=False, secondary=True, shape="strip",
                              help="Tokens, logarithmic, from the smallest to the largest "
                              "measured size: the interval of the change."))  # fmt: skip
        help_ = f"{word} over softmax's at the largest size that both have."
        heads.append(
            Head(
                title=f"{word} ratio", number=True, secondary=number > 0, help=help_, shape="number"
            )
        )
    return Table(
        id=f"{kind}-crossings",
        caption=f"{EXACTNESS_TITLES[kind]}: where they need less than softmax by SDPA",
        heads=tuple(heads),
        rows=tuple(rows),
        empty="No other execution was measured here.",
        show_caption=False,
        aligned=True,
    )


def _order(one: _Line, metric: str) -> tuple[object, ...]:
    found = one.found.get(metric)
    first = one.results[0]
    name = (first.variant, first.backend, first.options)
    return (float("inf"), *name) if found is None else (_sort(found), *name)


def _sort(found: Against) -> float:
    """Always, from few tokens, from many, never."""
    kind = "from" if found.kind == "surely" else found.kind
    return 100.0 * _ORDER.index(kind) + (math.log(found.tokens) if found.tokens else 0.0)


def _tone(found: Against) -> Literal["best", "plain"]:
    return "best" if found.kind == "always" else "plain"


def _words(found: Against) -> Iterator[Piece]:
    match found.kind:
        case "always":
            yield "at every size"
        case "never":
            yield Muted("at no size")
        case "equal":
            yield Muted("the same")
        case "partly":
            yield "at some sizes"
            same = "the same" if found.exact else "cannot be told"
            yield Muted(f", {same} at the largest")
        case "undecided":
            yield Muted("cannot be told")
        case "incomparable":
            yield Muted("no shared size")
        case "surely":
            yield f"from {whole(round(found.tokens or 0))}"
            yield Muted(", not at every size below" if found.exact else " at the latest")
        case "alone":
            yield f"from {whole(round(found.tokens or 0))}"
            yield Muted(" where softmax fails")
        case "from" | "up to":
            yield f"{found.kind} {_about(found)}"
            if found.low is not None and found.high is not None:
                low, high = whole(round(found.low)), whole(round(found.high))
                yield Muted(f" ({low} to {high})")


def _about(found: Against) -> str:
    """Two digits where they lie within the interval: 4,096 is not about 4,100 of 4,096 at most."""
    tokens = found.tokens or 0.0
    low, high = found.low or 0.0, found.high or math.inf
    for digits in (2, 3):
        text = significant(tokens, digits)
        if low <= float(text.replace(",", "")) <= high:
            return text
    return whole(round(tokens))


def _strip(variant: str, found: Against, ends: tuple[float, float]) -> Iterator[Piece]:
    if found.tokens is None or found.low is None or found.high is None:
        return
    low, high = ends

    def place(tokens: float) -> float:
        return 0.5 if high == low else min(1.0, max(0.0, (math.log(tokens) - low) / (high - low)))

    yield Strip(variant, place(found.low), place(found.tokens), place(found.high))


PAGE = Page(
    title="Crossovers",
    path="crossovers.html",
    order=4,
    documents=_documents,
    about="From how many tokens on each beats softmax, in time, memory and energy.",
)
