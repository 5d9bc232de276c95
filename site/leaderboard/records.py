"""The course of the results: who led a ranking, run by run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from leaderboard.contexts import Context, Size, context_of, size_of
from leaderboard.ranking import grouped, ranks_by
from leaderboard.results import EXACTNESS_TITLES, Exactness, Result, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A run after which a ranking has another leader than before."""

    run_id: str
    created: str
    context: Context
    size: Size
    exactness: Exactness
    before: Result
    after: Result


def changes(view: View) -> Iterator[Change]:
    """Yield every change of a lead, oldest first.

    After each run a ranking holds the newest result of each case so far. Its lead changes only if
    the old leader, as it then stands, no longer shares the first rank. What is stale today takes
    part nowhere.
    """
    every: dict[tuple[Context, Size], list[Result]] = {}
    for result in (*view.results, *view.superseded):
        context = context_of(result)
        if context is not None:
            every.setdefault((context, size_of(result)), []).append(result)
    found: list[Change] = []
    for (context, size), results in every.items():
        if len({r.run_id for r in results}) > 1:
            found += _in_ranking(view, context, size, results)
    yield from sorted(
        found,
        key=lambda c: (
            c.created, c.run_id, c.context.hardware_id, c.context.order, c.size.order, c.exactness
        ),
    )  # fmt: skip


def _in_ranking(
    view: View, context: Context, size: Size, results: list[Result]
) -> Iterator[Change]:
    metric, better = ranks_by(context.batch_policy)
    runs: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        runs.setdefault((result.created, result.run_id), []).append(result)
    standing: dict[str, Result] = {}
    leaders: dict[Exactness, Result] = {}
    for (created, run_id), mine in sorted(runs.items()):
        standing |= {r.case_id: r for r in mine}
        now = _leaders(view, standing, metric, better)
        for kind in EXACTNESS_TITLES:
            first = now.get(kind, ())
            before = leaders.get(kind)
            if not first:
                leaders.pop(kind, None)
            elif before is None:
                leaders[kind] = first[0]
            elif before.case_id not in {r.case_id for r in first}:
                yield Change(
                    run_id=run_id, created=created, context=context, size=size, exactness=kind,
                    before=before, after=first[0],
                )  # fmt: skip
                leaders[kind] = first[0]


def _leaders(
    view: View, standing: Mapping[str, Result], metric: str, better: "str"
) -> Mapping[Exactness, tuple[Result, ...]]:
    groups = grouped(
        view, tuple(standing.values()), metric=metric,
        better="lower" if better == "lower" else "higher",
    )  # fmt: skip
    return {
        g.exactness: tuple(p.result for p in g.ranked if p.rank == 1) for g in groups if g.ranked
    }
