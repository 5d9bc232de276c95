"""Memory of one call: measured, predicted, kept for backward; and the most tokens that fit."""

from collections.abc import Iterator

from leaderboard.axes import Axis, tokens_axis
from leaderboard.blocks import (
    Block,
    Cell,
    Chooser,
    Disclosure,
    Document,
    Head,
    Panel,
    Paragraph,
    Row,
    Section,
    Table,
    VariantName,
)
from leaderboard.contexts import LEVEL_WORDS, PASSES_WORDS, Context, by_context, size_of, slug
from leaderboard.curves import Family, families, series_of
from leaderboard.figures import curves
from leaderboard.format import MISSING, Scale, decimal, measure, scale_for, whole
from leaderboard.page import Page
from leaderboard.provenance import case_slug, detail
from leaderboard.results import OUTCOME_WORDS, SIGNS_HELP, Result, View
from leaderboard.standings import EXACTNESS_BADGES

_COLUMNS = (
    ("peak_memory", "Peak, measured", ("Largest memory in use during a call, above inputs and "
     "parameters.")),
    ("predicted_memory", "Peak, predicted", "From fake tensors, without running."),
    ("saved_memory", "Saved for backward", "Kept from forward until backward needs it."),
    ("resident_memory", "Process peak", ("Largest resident size of the process; CPU only, with "
     "everything that the process holds.")),
)  # fmt: skip


def _documents(view: View) -> Iterator[Document]:
    blocks: list[Block] = [
        Paragraph(
            (
                (
                    "Peak is the largest memory in use during one call above its inputs and "
                    "parameters. On a CPU it is the running sum of the allocator's events, on a "
                    "GPU "
                    "what the driver's allocator reports. The prediction needs no machine."
                ),
            ),
            "lead",
        )
    ]
    panels = tuple(_panels(view))
    if panels:
        chooser = Chooser(
            id="memory", facets=("Machine", "Passes", "Level", "Type", "Along"), panels=panels
        )
        blocks.append(chooser)
    blocks.append(Section("largest", "Most tokens that fit", tuple(_largest(view))))
    yield Document(
        path="memory.html",
        title="Memory",
        summary="Peak memory of attention mechanisms, and the most tokens that fit.",
        blocks=tuple(blocks),
    )


def _largest(view: View) -> Iterator[Block]:
    yield Paragraph(
        ("One sequence within a fixed budget, found by bisection on the machine.",), "small"
    )
    order = {hardware_id: n for n, hardware_id in enumerate(view.machines)}
    groups: dict[tuple[int, bool, str, int], list[Result]] = {}
    for r in view.results:
        if r.stimulus == "frontier":
            key = (
                order[r.hardware_id], r.passes != "forward", r.dtype or "",
                r.memory_budget_bytes or 0,
            )  # fmt: skip
            groups.setdefault(key, []).append(r)
    if not groups:
        yield Paragraph(("No search for the largest size has been run yet.",))
        return
    panels = tuple(_largest_panel(view, groups[key]) for key in sorted(groups))
    yield Chooser(id="most", facets=("Machine", "Passes", "Type", "Budget"), panels=panels)


def _largest_panel(view: View, results: list[Result]) -> Panel:
    first = results[0]
    passes = first.passes or "forward"
    budget = measure("byte", first.memory_budget_bytes or 0)
    id_ = slug(f"most-{first.hardware_id}-{passes}-{first.dtype}-{first.memory_budget_bytes}")
    rows = tuple(
        Row(
            (
                Cell((VariantName(r.variant, view.title(r.variant), r.detail),), r.variant),
                Cell((EXACTNESS_BADGES[view.exactness(r.variant)],), view.exactness(r.variant)),
                _largest_cell(r),
                Cell((detail(view, r, id_=f"{id_}-{case_slug(r)}"),)),
            ),
            "plain" if r.ok else "failed",
        )
        for r in sorted(results, key=lambda r: (-_most(r), r.case_id))
    )
    table = Table(
        id=f"{id_}-table",
        caption=f"Most tokens in {budget}",
        heads=(
            Head(title="Variant"),
            Head(title="Function", secondary=True),
            Head(title="Most tokens", number=True, help="Of one sequence, layer level."),
            Head(title="Details", sortable=False),
        ),
        rows=rows,
        empty="No results yet.",
        show_caption=False,
    )
    return Panel(
        id=id_,
        title=f"In {budget}, {PASSES_WORDS[passes]}",
        values=(
            (first.hardware_id, view.machine_title(first.hardware_id)),
            (passes, PASSES_WORDS[passes]),
            (first.dtype or "", first.dtype or ""),
            (str(first.memory_budget_bytes), budget),
        ),
        blocks=(table,),
    )


def _most(result: Result) -> float:
    found = result.numbers.get("largest_tokens")
    return 0.0 if found is None else found.value


def _largest_cell(result: Result) -> Cell:
    if not result.ok:
        return Cell((OUTCOME_WORDS.get(result.outcome, result.outcome),), tone="failure")
    if "largest_tokens" not in result.numbers:
        return Cell((result.unavailable.get("largest_tokens", "not measured"),), tone="muted")
    return Cell((whole(round(_most(result))),), _most(result))


def _panels(view: View) -> Iterator[Panel]:
    order = {hardware_id: n for n, hardware_id in enumerate(view.machines)}
    contexts = by_context(view.results)
    for context in sorted(contexts, key=lambda c: (order[c.hardware_id], c.order)):
        if context.batch_policy == "one":
            for family in families(contexts[context]):
                if any("peak_memory" in r.numbers for s in family.sizes for r in family.at(s)):
                    yield _panel(view, context, family)


def _panel(view: View, context: Context, family: Family) -> Panel:
    id_ = slug(f"{context.hardware_id}-{context.slug}-{family.key}")
    return Panel(
        id=id_,
        title=f"{family.title}, {PASSES_WORDS[context.passes]}",
        values=(
            (context.hardware_id, view.machine_title(context.hardware_id)),
            (context.passes, PASSES_WORDS[context.passes]),
            (context.level, LEVEL_WORDS[context.level]),
            (f"{context.dtype}-{context.width}", context.dtype),
            (family.key, family.title),
        ),
        blocks=(
            Paragraph(((f"{context.dtype}, {LEVEL_WORDS[context.level]}, 1 sequence, "
                       f"{context.width}. {SIGNS_HELP}"),), "small"),
            curves(
                id_=f"memory-{id_}",
                title=f"Peak memory against {family.axis.lower()}",
                finding=_finding(view, family),
                x=tokens_axis(family.axis, {s.tokens: s.resolution_px for s in family.sizes}),
                y=Axis(title="Peak memory", quantity="byte", log=True),
                series=series_of(view, family, "peak_memory"),
                marks=view.marks,
            ),
            Disclosure("Measured and predicted at every size", (_table(view, family, id_),)),
        ),
    )  # fmt: skip


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
    words = (
        f"At {size.title} {view.title(least.variant)}{others} need least, {measure('byte', low)}"
    )
    if equal == 1:
        words = words.replace(" need ", " needs ")
    if high > low:
        words += f"; {view.title(most.variant)} needs most, {measure('byte', high)}"
    return f"{words}."


def _table(view: View, family: Family, id_: str) -> Table:
    results = [r for size in family.sizes for r in family.at(size) if r.ok]
    shown = [c for c in _COLUMNS if any(c[0] in r.numbers for r in results)]
    scale = scale_for(
        "byte", [r.numbers["peak_memory"].value for r in results if "peak_memory" in r.numbers]
    )
    rows = tuple(
        Row(
            (
                Cell((VariantName(r.variant, view.title(r.variant), r.detail),), r.variant),
                Cell((size_of(r).title,), r.tokens),
                *(_bytes_cell(r, metric, scale) for metric, _, _ in shown),
                _error_cell(r),
            )
        )
        for r in sorted(results, key=lambda r: (r.tokens or 0, r.variant, r.backend, r.options))
    )
    return Table(
        id=f"{id_}-table",
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


PAGE = Page(title="Memory", path="memory.html", order=3, documents=_documents)
