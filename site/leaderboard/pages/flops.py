"""Arithmetic of one forward call: by formula, by torch's counter, by fvcore; MACs beside FLOPs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from leaderboard.axes import Axis, tokens_axis
from leaderboard.blocks import Block, Chooser, Document, Panel, Paragraph, Section
from leaderboard.choices import Choice, Choices
from leaderboard.contexts import LEVEL_WORDS, Context, Size, by_context, slug
from leaderboard.curves import families, series_of
from leaderboard.figures import curves
from leaderboard.format import MISSING, Scale, measure, percent, scale_for, significant, whole
from leaderboard.page import Page
from leaderboard.pieces import VariantName, prose
from leaderboard.results import SIGNS_HELP, Result, View
from leaderboard.tables import Cell, Head, Row, Table

_Sizes = Mapping[Size, tuple[Result, ...]]
_LEAD = (
    "One multiply-add is 2 FLOPs and 1 MAC. The formula counts contractions of one forward call "
    "and is the truth here; two counters that watch the operators must agree with it, or the page "
    "says what they cannot see. Papers print MACs under the name of FLOPs: compare with the column "
    "of MACs."
)


def _documents(view: View) -> Iterator[Document]:
    found = [
        (context, sizes, Choice(path=f"flops/{_slug(context)}.html", values=_values(context)))
        for context, sizes in _counted(view).items()
    ]
    choices = Choices(("Level", "Width"), [choice for _, _, choice in found])
    intro = Paragraph((_LEAD,), "lead")
    unseen = tuple(_uncounted(view))
    for number, (context, sizes, choice) in enumerate(found):
        document = Document(
            path=choice.path,
            title=f"FLOPs: {LEVEL_WORDS[context.level]}",
            summary="FLOPs and MACs of attention mechanisms, three ways.",
            context=f"{LEVEL_WORDS[context.level]}, {context.width}",
            blocks=(intro, choices.facets(choice), *_blocks(view, context, sizes), *unseen),
        )
        if number == 0:
            yield replace(document, path="flops.html", title="FLOPs", permanent=document.path)
        yield document
    if not found:
        yield Document(
            path="flops.html",
            title="FLOPs",
            summary="FLOPs and MACs of attention mechanisms, three ways.",
            blocks=(intro, Paragraph(("No results yet.",)), *unseen),
        )


def _slug(context: Context) -> str:
    width = f"h{context.heads}d{context.head_dim}"
    return slug(f"{context.level}-{width}{'-causal' if context.causal else ''}")


def _values(context: Context) -> tuple[tuple[str, str], ...]:
    width = f"h{context.heads}d{context.head_dim}{'c' if context.causal else ''}"
    return ((context.level, LEVEL_WORDS[context.level]), (width, context.width))


def _uncounted(view: View) -> Iterator[Block]:
    unseen = [v for v in view.variants.values() if v.uncounted]
    if unseen:
        rows = tuple(
            Row((Cell((VariantName(v.name, v.title),), v.name), Cell(prose(v.uncounted or ""))))
            for v in unseen
        )
        table = Table(
            id="uncounted-table",
            caption="What operator counters cannot see",
            heads=(Head(title="Variant"), Head(title="Why the counters say less")),
            rows=rows,
            empty="",
            show_caption=False,
            sortable=False,
        )
        yield Section("uncounted", "What operator counters cannot see", (table,))


def _counted(view: View) -> Mapping[Context, _Sizes]:
    """Forward results with a formula, each variant once: machine and execution do not matter."""
    seen: dict[tuple[object, ...], Result] = {}
    order = {hardware_id: n for n, hardware_id in enumerate(view.machines)}
    by_reference = sorted(
        view.results, key=lambda r: (r.backend != "reference", order[r.hardware_id])
    )
    for result in by_reference:
        if (
            result.passes == "forward"
            and result.batch_policy == "one"
            and "flops" in result.numbers
        ):
            key = (result.variant, result.options, result.level, result.grid_height,
                   result.grid_width, result.resolution_px, result.extra_tokens, result.causal,
                   result.heads, result.head_dim)  # fmt: skip
            # the formula is the variant's: which execution a size was counted with says nothing
            seen.setdefault(key, replace(result, backend="reference"))
    merged: dict[tuple[object, ...], tuple[Context, dict[Size, tuple[Result, ...]]]] = {}
    for context, sizes in by_context(seen.values()).items():
        key = (context.level, context.heads, context.head_dim, context.causal)
        into = merged.setdefault(key, (context, {}))[1]
        for size, results in sizes.items():
            into[size] = (*into.get(size, ()), *results)
    return {
        context: {s: sizes[s] for s in sorted(sizes, key=lambda s: s.order)}
        for context, sizes in sorted(merged.values(), key=lambda pair: pair[0].order)
    }


def _blocks(view: View, context: Context, sizes: _Sizes) -> Iterator[Block]:
    panels = tuple(
        Panel(
            id=size.slug,
            title=size.title,
            values=((size.slug, size.title),),
            blocks=(
                Paragraph((_finding(view, results),), "finding"),
                _table(view, results, f"{size.slug}-table"),
            ),
        )
        for size, results in sizes.items()
    )
    yield Chooser(id="flops", facets=("Size",), panels=panels)
    yield from _figures(view, context, sizes)
    yield from _not_counted(view, sizes)


def _finding(view: View, results: Sequence[Result]) -> str:
    ordered = sorted(results, key=lambda r: (r.numbers["flops"].value, r.case_id))
    least, most = ordered[0], ordered[-1]
    low, high = least.numbers["flops"].value, most.numbers["flops"].value
    words = f"{view.title(least.variant)} does least, {measure('flop', low)}"
    if high > low:
        words += (
            f"; {view.title(most.variant)} does most, {measure('flop', high)}, "
            f"{measure('ratio', high / low)} as much"
        )
    return f"{words}."


def _table(view: View, results: Sequence[Result], id_: str) -> Table:
    scale = scale_for("flop", [r.numbers["flops"].value for r in results])
    macs = Scale("mac", scale.factor, scale.unit.replace("FLOPs", "MACs"))
    ordered = sorted(results, key=lambda r: (r.numbers["flops"].value, r.variant, r.backend))
    rows = tuple(_row(view, r, scale, macs) for r in ordered)
    return Table(
        id=id_,
        caption="FLOPs of one forward call",
        heads=(
            Head(title="Variant"),
            Head(title="Formula", unit=scale.unit, number=True),
            Head(title="Same, as", unit=macs.unit, number=True),
            Head(title="A token", unit="kFLOPs", number=True, secondary=True),
            Head(title="torch counter", number=True, help="torch.utils.flop_counter against the "
                 "formula."),
            Head(title="fvcore", number=True, help="Twice fvcore's count, with handlers for what "
                 "it does not know, against the formula."),
            Head(title="Parameters", number=True, secondary=True),
        ),
        rows=rows,
        empty="No results yet.",
        show_caption=False,
    )  # fmt: skip


def _row(view: View, result: Result, scale: Scale, macs: Scale) -> Row:
    flops = result.numbers["flops"].value
    tokens = (result.batch or 1) * (result.tokens or 1)
    parameters = result.numbers.get("parameters")
    return Row(
        (
            Cell((VariantName(result.variant, view.title(result.variant), result.detail),),
                 result.variant),
            Cell((scale.text(flops),), flops),
            Cell((macs.text(flops / 2),), flops / 2),
            Cell((significant(flops / tokens / 1e3),), flops / tokens),
            _agreement(result, "flops_torch"),
            _agreement(result, "flops_fvcore"),
            Cell((whole(round(parameters.value)),), parameters.value)
            if parameters
            else Cell((MISSING,), tone="muted"),
        )
    )  # fmt: skip


def _agreement(result: Result, metric: str) -> Cell:
    number = result.numbers.get(metric)
    if number is None:
        return Cell(("not counted",), tone="muted")
    formula = result.numbers["flops"].value
    if number.value == formula:
        return Cell(("equal",), 0.0)
    share = number.value / formula - 1
    sign = "\N{MINUS SIGN}" if share < 0 else "+"
    return Cell((f"{sign}{percent(abs(share))}",), share)


_COUNTERS = {"flops_torch": "torch counter", "flops_fvcore": "fvcore"}


def _not_counted(view: View, sizes: _Sizes) -> Iterator[Block]:
    """Why a counter gave no number, in its own words."""
    reasons = sorted(
        {
            (r.variant, metric, r.unavailable[metric])
            for results in sizes.values()
            for r in results
            for metric in _COUNTERS
            if metric in r.unavailable
        }
    )
    if not reasons:
        return
    table = Table(
        id="not-counted-table",
        caption="Why a counter gave no number",
        heads=(Head(title="Variant"), Head(title="Counter"), Head(title="What it said")),
        rows=tuple(
            Row(
                (
                    Cell((VariantName(variant, view.title(variant)),), variant),
                    Cell((_COUNTERS[metric],)),
                    Cell((reason,)),
                )
            )
            for variant, metric, reason in reasons
        ),
        empty="",
        show_caption=False,
        sortable=False,
    )
    yield Section("not-counted", "Not counted", (table,))


def _figures(view: View, context: Context, sizes: _Sizes) -> Iterator[Block]:
    for family in families(sizes):
        figure = curves(
            id_=slug(f"flops-{_slug(context)}-{family.key}"),
            title=f"FLOPs against {family.axis.lower()}",
            finding=_finding(view, list(family.at(family.sizes[-1]))),
            x=tokens_axis(family.axis, {s.tokens: s.resolution_px for s in family.sizes}),
            y=Axis(title="FLOPs, forward", quantity="flop", log=True),
            series=series_of(view, family, "flops"),
            marks=view.marks,
        )
        yield Section(
            f"along-{family.key}", family.title, (Paragraph((SIGNS_HELP,), "small"), figure)
        )


PAGE = Page(
    title="FLOPs",
    path="flops.html",
    order=51,
    documents=_documents,
    about="By formula, by torch and by fvcore, with MACs beside.",
)
