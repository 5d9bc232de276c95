"""Up to six executions side by side: faster, slower, or undecided, size by size."""

from collections import Counter
from collections.abc import Iterator, Sequence

from leaderboard.addresses import execution
from leaderboard.answers import contexts_of, kinds
from leaderboard.blocks import Block, Document, Island, Paragraph, Subsection
from leaderboard.contexts import PASSES_WORDS, slug
from leaderboard.format import MISSING, measure
from leaderboard.page import Page
from leaderboard.pieces import Link, VariantName
from leaderboard.places import Place, places, usual
from leaderboard.ranking import baseline, grouped, noise_floor, verdict
from leaderboard.results import EXACTNESS_TITLES, Result, View
from leaderboard.tables import Cell, Head, Row, Table

_LEAD = (
    "Up to six executions on one machine, under the same conditions. A difference counts if the "
    "95 % intervals do not overlap and it is larger than the noise of the run; everything else is "
    "undecided."
)


def _documents(view: View) -> Iterator[Document]:
    found = [p for p in places(view) if p.context.batch_policy == "one"]
    blocks: list[Block] = [Paragraph((_LEAD,), "lead")]
    if found:
        place = usual(found)
        groups = grouped(view, _at_most_sizes(found, place), metric="latency", better="lower")
        leaders = [p.result for g in groups for p in g.ranked[:1]]
        base = baseline(place.results, "latency")
        start = dict.fromkeys(execution(r) for r in (*([base] if base else []), *leaders))
        blocks.append(
            Island(
                id="comparison",
                scripts=("answers.js", "compare.js"),
                data={
                    "contexts": contexts_of(view, layers_only=False),
                    "kinds": kinds(),
                    "start": {
                        "machine": slug(place.context.hardware_id),
                        "context": place.context.slug,
                        "e": list(start),
                    },
                },
                blocks=tuple(_with_softmax(view, place)),
                draws=True,
            )
        )
    else:
        blocks.append(Paragraph(("No results yet.",)))
    yield Document(
        path="compare.html",
        title="Compare",
        summary="Up to six executions side by side: faster, slower, or undecided.",
        blocks=tuple(blocks),
    )


def _at_most_sizes(found: Sequence[Place], place: Place) -> tuple[Result, ...]:
    """Results at `place` of the executions that ran at the most of its context's sizes.

    A comparison that opens with one point of each execution would show no scaling.
    """
    sizes = Counter(
        execution(result)
        for other in found
        if other.context == place.context
        for result in other.results
        if result.ranked
    )
    most = max((sizes[execution(r)] for r in place.results), default=0)
    return tuple(r for r in place.results if sizes[execution(r)] == most)


def _with_softmax(view: View, place: Place) -> Iterator[Block]:
    """What stands here without scripts: everything against softmax, at the usual size."""
    base = baseline(place.results, "latency")
    title = f"{place.size.title}, {PASSES_WORDS[place.context.passes]}"
    yield Paragraph(
        (
            (
                f"Every execution against softmax attention by SDPA at {title}, on "
                f"{view.machine_title(place.context.hardware_id)}. "
            ),
            Link("The same for every other choice", "leaderboard.html"),
            ". With scripts this page compares any six.",
        )
    )
    for group in grouped(view, place.results, metric="latency", better="lower"):
        rows = tuple(_row(view, p.result, base, noise_floor(place.results)) for p in group.placed)
        table = Table(
            id=f"{group.exactness}-compared",
            caption=f"{EXACTNESS_TITLES[group.exactness]} against softmax by SDPA",
            heads=(
                Head(title="Variant", shape="name"),
                Head(title="Latency", number=True),
                Head(title="To softmax", number=True),
                Head(title="Verdict"),
            ),
            rows=rows,
            empty="",
            show_caption=False,
            sortable=False,
        )
        yield Subsection(f"{group.exactness}-part", EXACTNESS_TITLES[group.exactness], (table,))


def _row(view: View, result: Result, base: Result | None, floor: float | None) -> Row:
    name = VariantName(result.variant, view.title(result.variant), result.detail)
    number = result.numbers.get("latency") if result.ranked else None
    nothing = Cell((MISSING,), tone="muted")
    if number is None or base is None:
        return Row((Cell((name,), result.variant), nothing, nothing, nothing))
    theirs = base.numbers["latency"]
    word = "the baseline"
    if result is not base:
        word = verdict(number.standing, theirs.standing, floor)
    return Row(
        (
            Cell((name,), result.variant),
            Cell((measure("s", number.value),), number.value),
            Cell((measure("ratio", number.value / theirs.value),), number.value / theirs.value),
            Cell((word,)),
        )
    )


PAGE = Page(
    title="Compare",
    path="compare.html",
    order=2,
    documents=_documents,
    about="Up to six side by side: faster, slower, or undecided.",
)
