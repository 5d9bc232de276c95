"""Results of one context as lines over sizes; images and sequences are never joined."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from leaderboard.addresses import execution
from leaderboard.contexts import Size, size_of
from leaderboard.figure_data import Point, Series
from leaderboard.format import whole
from leaderboard.results import EXACTNESS_TITLES, OUTCOME_WORDS, Result, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Sizes that differ in one thing only: the side of an image, or the length of a sequence."""

    key: str
    title: str
    axis: str
    """What the horizontal axis says."""
    sizes: tuple[Size, ...]
    """Small first, at least two."""
    results: Mapping[Size, tuple[Result, ...]]

    def at(self, size: Size) -> tuple[Result, ...]:
        """Results at one size."""
        return self.results[size]

    def lines(self) -> tuple[tuple[Result, ...], ...]:
        """Return the results of each execution over the sizes, small first."""
        found: dict[tuple[str, str, str], list[Result]] = {}
        for size in self.sizes:
            for result in self.results[size]:
                key = (result.variant, result.backend, result.options)
                found.setdefault(key, []).append(result)
        return tuple(tuple(found[key]) for key in sorted(found))


def families(by_size: Mapping[Size, tuple[Result, ...]]) -> Iterator[Family]:
    """Yield images, then sequences, where there are at least two sizes of a kind."""
    for key, title, axis in (
        ("images", "Images", "Image side"),
        ("sequences", "Sequences", "Tokens in a row"),
    ):
        for extra in sorted({size.extra_tokens for size in by_size}):
            sizes = tuple(s for s in by_size if _kind(s) == key and s.extra_tokens == extra)
            if len(sizes) > 1:
                words = f" and {extra} class tokens" if extra else ""
                yield Family(
                    key=f"{key}-plus{extra}" if extra else key,
                    title=f"{title}{words}",
                    axis=axis,
                    sizes=sizes,
                    results={size: by_size[size] for size in sizes},
                )


def _kind(size: Size) -> str:
    if size.resolution_px is not None:
        return "images"
    return "sequences" if size.height == 1 else "grids"


MOST_SHOWN = 14
"""Lines that a figure shows at first; more would hide each other."""
_LEADERS = 3
"""Of each kind of function, where there are too many lines to show all."""


def series_of(view: View, family: Family, metric: str) -> tuple[Series, ...]:
    """Return one series for each execution that has `metric` somewhere; few enough are shown."""
    lines = family.lines()
    shown = shown_at_first(view, family, metric)
    found: list[Series] = []
    for results in lines:
        points = tuple(_points(results, metric))
        if not points:
            continue
        first = results[0]
        found.append(
            Series(
                variant=first.variant,
                label=view.title(first.variant)
                + (f" {first.detail}" if first.detail else "")
                + view.sign(first.variant),
                main=first.backend == "reference" and not first.options,
                points=points,
                failed=failure_beyond(results, metric),
                shown=len(lines) <= MOST_SHOWN or execution(first) in shown,
                name=execution(first),
            )
        )
    return tuple(found)


def shown_at_first(view: View, family: Family, metric: str) -> frozenset[str]:
    """Return the baseline, and the leaders of each kind of function at the largest sizes."""
    column = view.columns.get(metric)
    sign = -1.0 if column is not None and column.better == "higher" else 1.0
    chosen: set[str] = set()
    for kind in EXACTNESS_TITLES:
        found: dict[str, tuple[float, float]] = {}
        for results in family.lines():
            if view.exactness(results[0].variant) == kind:
                able = [r for r in results if r.ranked and metric in r.numbers]
                if able:
                    last = able[-1]
                    found[execution(last)] = (
                        -(last.tokens or 0),
                        sign * last.numbers[metric].value,
                    )
        chosen |= set(sorted(found, key=lambda name: (found[name], name))[:_LEADERS])
    for results in family.lines():
        if results[0].variant == "softmax" and not results[0].options:
            chosen |= (
                {execution(results[0])} if results[0].backend in ("reference", "sdpa") else set()
            )
    return frozenset(chosen)


def failure_beyond(results: Sequence[Result], metric: str) -> str | None:
    """Say what the first failure after the last point is, e.g. `out of memory at 16,384`."""
    last = max((r.tokens or 0 for r in results if r.ranked and metric in r.numbers), default=0)
    beyond = [r for r in results if not r.ok and (r.tokens or 0) > last]
    if not beyond:
        return None
    first = min(beyond, key=lambda r: r.tokens or 0)
    word = OUTCOME_WORDS.get(first.outcome, first.outcome)
    size = size_of(first)
    where = f"{size.resolution_px} px" if size.resolution_px else f"{whole(size.tokens)} tokens"
    return f"{word} at {where}"


def _points(results: Sequence[Result], metric: str) -> Iterator[Point]:
    for result in results:
        number = result.numbers.get(metric)
        if result.ranked and number is not None and number.value > 0:
            yield Point(
                x=float(size_of(result).tokens),
                y=number.value,
                low=number.low,
                high=number.high,
            )
