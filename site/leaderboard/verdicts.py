"""The answer in sentences: who leads each kind of function, how clearly, and why."""

from collections.abc import Iterator

from leaderboard.format import listed, measure, percent, whole
from leaderboard.pieces import Inline, Piece, Strong
from leaderboard.provenance import failure_words
from leaderboard.ranking import Group
from leaderboard.results import EXACTNESS_TITLES, Number, Result, View

_MOST_NAMED = 3
_SMALL_SHARE = 0.1


def verdicts(view: View, groups: tuple[Group, ...]) -> tuple[Inline, ...]:
    """Return a line for each kind of function: the leaders, their latency, and the next behind."""
    return tuple(tuple(_line(view, group)) for group in groups)


def _line(view: View, group: Group) -> Iterator[Piece]:
    yield f"{EXACTNESS_TITLES[group.exactness]}: "
    ranked = group.ranked
    if not ranked:
        words = sorted({failure_words(p.result) for p in group.placed if not p.result.ok})
        yield f"none has a ranked result here{f': {listed(words)}' if words else ''}."
        return
    best = [p.result for p in ranked if p.rank == 1]
    latency = best[0].numbers["latency"]
    names = [_title(view, r) for r in best]
    if len(names) > _MOST_NAMED:
        names = [*names[: _MOST_NAMED - 1], f"{whole(len(best) - _MOST_NAMED + 1)} more"]
    yield Strong(listed(names))
    if len(best) > 1:
        yield f" cannot be told apart: {measure('s', latency.value)} for the first."
    else:
        yield f", {_with_interval(latency)}."
    if len(group.placed) == 1:
        yield " Nothing else of this kind was measured."
    behind = ranked[len(best) :]
    if behind:
        next_ = behind[0].result
        ratio = next_.numbers["latency"].value / latency.value
        yield f" The next, {_title(view, next_)}, takes {measure('ratio', ratio)} as long."


def reason(view: View, groups: tuple[Group, ...], base: Result | None) -> str:
    """Say why the fastest of all differs from exact softmax: its arithmetic and what bounds it.

    Empty where there is nothing to compare with.
    """
    leaders = [g.ranked[0].result for g in groups if g.ranked]
    if not leaders or base is None:
        return ""
    best = min(leaders, key=lambda r: (r.numbers["latency"].value, r.case_id))
    other = base
    if best.case_id == base.case_id:
        others = [r for r in leaders if r is not best]
        if not others:
            return ""
        other = min(others, key=lambda r: (r.numbers["latency"].value, r.case_id))
    if "flops" not in best.numbers or "flops" not in other.numbers:
        return ""
    share = _share(best.numbers["flops"].value / other.numbers["flops"].value)
    words = f"{_title(view, best)} does {share} the arithmetic of {_title(view, other)}"
    efficiency = best.numbers.get("efficiency")
    if efficiency is None:
        return f"{words}."
    bound = f", bound by {efficiency.bound}" if efficiency.bound else ""
    return f"{words} and reaches {percent(efficiency.value)} of what this machine can do{bound}."


def _share(ratio: float) -> str:
    """Return a ratio; what is small reads as `1/128 of`."""
    return f"1/{whole(round(1 / ratio))} of" if ratio < _SMALL_SHARE else measure("ratio", ratio)


def _with_interval(number: Number) -> str:
    text = measure("s", number.value)
    if number.low is None or number.high is None:
        return text
    return f"{text} ({measure('s', number.low)} to {measure('s', number.high)})"


def _title(view: View, result: Result) -> str:
    return view.title(result.variant) + (f" ({result.detail})" if result.detail else "")
