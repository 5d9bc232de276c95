"""Arithmetic of one forward call: by formula, by torch's counter, by fvcore; MACs beside FLOPs."""

from collections.abc import Iterator, Mapping, Sequence

from leaderboard.axes import Axis, tokens_axis
from leaderboard.blocks import (
    Block,
    Cell,
    Chooser,
    Document,
    Head,
    Panel,
    Paragraph,
    Row,
    Section,
    Table,
    VariantName,
    prose,
)
from leaderboard.contexts import LEVEL_WORDS, Context, Size, by_context, slug
from leaderboard.curves import families, series_of
from leaderboard.figures import curves
from leaderboard.format import MISSING, Scale, measure, percent, scale_for, significant, whole
from leaderboard.page import Page
from leaderboard.results import SIGNS_HELP, Result, View

_Sizes = Mapping[Size, tuple[Result, ...]]


def _documents(view: View) -> Iterator[Document]:
    blocks: list[Block] = [
        Paragraph(
            (
                (
                    "One multiply-add is 2 FLOPs and 1 MAC. The formula counts contractions of one "
                    "forward call and is the truth here; two counters that watch the operators "
                    "must "
                    "agree with it, or the page says what they cannot see. Papers print MACs "
                    "under the "
                    "name of FLOPs: compare with the column of MACs."
                ),
            ),
            "lead",
        )
    ]
    panels = tuple(_panels(view))
    if panels:
        blocks.append(Chooser(id="flops", facets=("Level", "Width", "Size"), panels=panels))
        blocks += _figures(view)
    else:
        blocks.append(Paragraph(("No results yet.",)))
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
        blocks.append(Section("uncounted", "What operator counters cannot see", (table,)))
    yield Document(
        path="flops.html",
        title="FLOPs",
        summary="FLOPs and MACs of attention mechanisms, three ways.",
        blocks=tuple(blocks),
    )


def _counted(view: View) -> Mapping[Context, _Sizes]:
    """Forward results with a formula, each case once: arithmetic does not depend on the machine."""
    seen: dict[tuple[object, ...], Result] = {}
    order = {hardware_id: n for n, hardware_id in enumerate(view.machines)}
    for result in sorted(view.results, key=lambda r: order[r.hardware_id]):
        if (
            result.passes == "forward"
            and result.batch_policy == "one"
            and "flops" in result.numbers
        ):
            # the case's own digest: equal on every machine, but for the type of the numbers
            key = (result.variant, result.backend, result.options, result.level, result.grid_height,
                   result.grid_width, result.resolution_px, result.extra_tokens, result.causal,
                   result.heads, result.head_dim)  # fmt: skip
            seen.setdefault(key, result)
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


def _panels(view: View) -> Iterator[Panel]:
    for context, sizes in _counted(view).items():
        for size, results in sizes.items():
            width = f"h{context.heads}d{context.head_dim}{'c' if context.causal else ''}"
            id_ = slug(f"{context.level}-{width}-{size.slug}")
            yield Panel(
                id=id_,
                title=f"{size.title}, {LEVEL_WORDS[context.level]}",
                values=(
                    (context.level, LEVEL_WORDS[context.level]),
                    (width, context.width),
                    (size.slug, size.title),
                ),
                blocks=(
                    Paragraph((_finding(view, results),), "finding"),
                    _table(view, results, f"{id_}-table"),
                ),
            )


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
        return Cell((result.unavailable.get(metric, "not counted"),), tone="muted")
    formula = result.numbers["flops"].value
    if number.value == formula:
        return Cell(("equal",), 0.0)
    share = number.value / formula - 1
    sign = "\N{MINUS SIGN}" if share < 0 else "+"
    return Cell((f"{sign}{percent(abs(share))}",), share)


def _figures(view: View) -> Iterator[Block]:
    for context, sizes in _counted(view).items():
        for family in families(sizes):
            id_ = slug(f"flops-{context.level}-h{context.heads}d{context.head_dim}-{family.key}")
            if context.causal:
                id_ += "-causal"
            title = f"{family.title}, {LEVEL_WORDS[context.level]}"
            yield Section(
                f"{id_}-part",
                title,
                (
                    Paragraph((SIGNS_HELP,), "small"),
                    curves(
                        id_=id_,
                        title=f"FLOPs against {family.axis.lower()}",
                        finding=_finding(view, list(family.at(family.sizes[-1]))),
                        x=tokens_axis(
                            family.axis, {s.tokens: s.resolution_px for s in family.sizes}
                        ),
                        y=Axis(title="FLOPs, forward", quantity="flop", log=True),
                        series=series_of(view, family, "flops"),
                        marks=view.marks,
                    ),
                ),
            )


PAGE = Page(title="FLOPs", path="flops.html", order=4, documents=_documents)
