"""Who leads each kind of function, one row a size: the answers at a glance."""

from collections.abc import Sequence

from leaderboard.contexts import Size
from leaderboard.format import MISSING, listed, measure, whole
from leaderboard.pieces import Inline, Link, Muted, Piece, VariantName
from leaderboard.provenance import failure_words
from leaderboard.ranking import Group, grouped, ranks_by
from leaderboard.results import EXACTNESS_TITLES, Result, View
from leaderboard.tables import Cell, Head, Row, Table

_HEADS = {"exact": "Exact softmax", "approximate": "Approximation", "own": "Other mechanism"}
_MOST_NAMED = 2


def leaders_table(
    view: View,
    rankings: Sequence[tuple[Size, tuple[Result, ...], str]],
    *,
    id_: str,
    policy: str,
) -> Table:
    """Return the leaders of rankings that differ in size only.

    Args:
        view: names and kinds of function.
        rankings: size, results and address of each.
        id_: unique within the document.
        policy: batch policy, which decides what ranks.
    """
    metric, better = ranks_by(policy)
    rows: list[Row] = []
    for size, results, path in rankings:
        groups = {g.exactness: g for g in grouped(view, results, metric=metric, better=better)}
        failed = sum(not r.ok for r in results)
        rows.append(
            Row(
                (
                    Cell((Link(size.title, path),), size.tokens),
                    *(_leader(view, groups.get(kind), metric) for kind in EXACTNESS_TITLES),
                    Cell((whole(len(results)),), len(results)),
                    Cell((whole(failed),), failed),
                )
            )
        )
    return Table(
        id=id_,
        caption="Leaders by size",
        heads=(
            Head(title="Size", ordered=True),
            *(Head(title=_HEADS[kind], shape="text") for kind in EXACTNESS_TITLES),
            Head(title="Rows", number=True, secondary=True),
            Head(title="Failed", number=True, secondary=True),
        ),
        rows=tuple(rows),
        empty="No results yet.",
        show_caption=False,
        sortable=False,
        sticky=True,
    )


def _leader(view: View, group: Group | None, metric: str) -> Cell:
    if group is None:
        return Cell((MISSING,), tone="muted")
    best = [p.result for p in group.ranked if p.rank == 1]
    if not best:
        words = sorted({failure_words(p.result) for p in group.placed if not p.result.ok})
        return Cell((listed(words) or "none ranked",), tone="failure" if words else "muted")
    return Cell(leader_words(view, best, metric))


def leader_words(view: View, best: Sequence[Result], metric: str) -> Inline:
    """Return names and value of those who share the first rank."""
    pieces: list[Piece] = []
    for number, result in enumerate(best[:_MOST_NAMED]):
        pieces += [" "] if number else []
        pieces.append(VariantName(result.variant, view.title(result.variant), result.detail))
    more = len(best) - _MOST_NAMED
    unit = "s" if metric == "latency" else "token/s"
    value = measure(unit, best[0].numbers[metric].value)
    pieces.append(Muted(f" {f'and {more} more, ' if more > 0 else ''}{value}"))
    return tuple(pieces)
