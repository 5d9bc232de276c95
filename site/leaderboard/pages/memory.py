"""Memory of one call: measured, predicted, kept for backward, over sizes."""

from collections.abc import Iterator

from leaderboard.addresses import of_context, result_address
from leaderboard.along import Along, along_documents, conditions
from leaderboard.axes import Axis, tokens_axis
from leaderboard.blocks import Block, Document, Paragraph, Section
from leaderboard.contexts import size_of, slug
from leaderboard.curves import Family, series_of
from leaderboard.downloads import context_base, links
from leaderboard.figures import curves
from leaderboard.format import MISSING, Scale, decimal, measure, scale_for
from leaderboard.page import Page
from leaderboard.pieces import Link, VariantName
from leaderboard.results import SIGNS_HELP, Result, View
from leaderboard.tables import Cell, Head, Row, Table

_COLUMNS = (
    ("peak_memory", "Peak, measured", ("Largest memory in use during a call, above inputs and "
     "parameters.")),
    ("predicted_memory", "Peak, predicted", "From fake tensors, without running."),
    ("saved_memory", "Saved for backward", "Kept from forward until backward needs it."),
    ("resident_memory", "Process peak", ("Largest resident size of the process; CPU only, with "
     "everything that the process holds.")),
)  # fmt: skip
_LEAD = (
    "Peak is the largest memory in use during one call above its inputs and parameters. On a CPU "
    "it is the running sum of the allocator's events, on a GPU what the driver's allocator "
    "reports. The prediction needs no machine."
)


def _documents(view: View) -> Iterator[Document]:
    yield from along_documents(view, "memory", "Memory", _LEAD, lambda place: _blocks(view, place))


def _blocks(view: View, place: Along) -> Iterator[Block]:
    context, family = place.context, place.family
    yield conditions(context, SIGNS_HELP)
    yield curves(
        id_=slug(f"memory-{context.hardware_id}-{context.slug}-{family.key}"),
        title=f"Peak memory against {family.axis.lower()}",
        finding=_finding(view, family),
        x=tokens_axis(family.axis, {s.tokens: s.resolution_px for s in family.sizes}),
        y=Axis(title="Peak memory", quantity="byte", log=True),
        series=series_of(view, family, "peak_memory"),
        marks=view.marks,
    )
    yield Paragraph((Link("The most tokens that fit", of_context("failures", context)),))
    yield Section("sizes", "Measured and predicted at every size", (_table(view, family),))
    yield links(("All rows of this machine and context", context_base(context)))


def _finding(view: View, family: Family) -> str:
    size = family.sizes[-1]
    able = [r for r in family.at(size) if r.ranked and "peak_memory" in r.numbers]
    if not able:
        return f"At {size.title} nothing was measured."
    ordered = sorted(able, key=lambda r: (r.numbers["peak_memory"].value, r.case_id))
    least, most = ordered[0], ordered[-1]
    low, high = (r.numbers["peak_memory"].value for r in (least, most))
    equal = sum(r.numbers["peak_memory"].value == low for r in able)
    others = f" and {equal - 1} more" if equal > 1 else ""
    verb = "need" if equal > 1 else "needs"
    words = f"At {size.title} {view.title(least.variant)}{others} {verb} least, "
    words += measure("byte", low)
    if high > low:
        words += f"; {view.title(most.variant)} needs most, {measure('byte', high)}"
    return f"{words}."


def _table(view: View, family: Family) -> Table:
    results = [r for size in family.sizes for r in family.at(size) if r.ok]
    shown = [c for c in _COLUMNS if any(c[0] in r.numbers for r in results)]
    scale = scale_for(
        "byte", [r.numbers["peak_memory"].value for r in results if "peak_memory" in r.numbers]
    )
    rows = tuple(
        Row(
            (
                Cell((VariantName(r.variant, view.title(r.variant), r.detail),), r.variant),
                Cell((Link(size_of(r).title, result_address(r)),), r.tokens),
                *(_bytes_cell(r, metric, scale) for metric, _, _ in shown),
                _error_cell(r),
            )
        )
        for r in sorted(results, key=lambda r: (r.tokens or 0, r.variant, r.backend, r.options))
    )
    return Table(
        id="memory-table",
        caption=f"Memory of one call, {scale.unit}",
        heads=(
            Head(title="Variant"),
            Head(title="Size", ordered=True),
            *(
                Head(title=title, unit=scale.unit, number=True, help=text,
                     secondary=metric in ("resident_memory", "saved_memory"))
                for metric, title, text in shown
            ),
            Head(title="Predicted / measured", number=True, secondary=True),
        ),
        rows=rows,
        empty="No results yet.",
        show_caption=False,
    )  # fmt: skip


def _bytes_cell(result: Result, metric: str, scale: Scale) -> Cell:
    number = result.numbers.get(metric)
    if number is None:
        return Cell((MISSING,), tone="muted")
    return Cell((scale.text(number.value),), number.value)


def _error_cell(result: Result) -> Cell:
    predicted, peak = (result.numbers.get(m) for m in ("predicted_memory", "peak_memory"))
    if predicted is None or peak is None or not peak.value:
        return Cell((MISSING,), tone="muted")
    share = predicted.value / peak.value
    return Cell((f"{decimal(100 * share, 1)}\N{NO-BREAK SPACE}%",), share)


PAGE = Page(
    title="Memory",
    path="memory.html",
    order=50,
    documents=_documents,
    about="Peak memory, measured and predicted, over sizes.",
)
