"""Documents that differ in a few choices, linked to each other choice by choice."""

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.blocks import Facets, Option
from leaderboard.contexts import LEVEL_WORDS, PASSES_WORDS, POLICY_WORDS, Context
from leaderboard.results import View

CONTEXT_FACETS = ("Machine", "Passes", "Level", "Batch", "Type", "Width")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One document and what it shows."""

    path: str
    values: tuple[tuple[str, str], ...]
    """(stable value, label) for each facet, in the order of the facets."""


def context_values(view: View, context: Context) -> tuple[tuple[str, str], ...]:
    """Return the values of CONTEXT_FACETS."""
    return (
        (context.hardware_id, view.machine_title(context.hardware_id)),
        (context.passes, PASSES_WORDS[context.passes]),
        (context.level, LEVEL_WORDS[context.level]),
        (context.batch_policy, POLICY_WORDS[context.batch_policy]),
        (context.dtype, context.dtype),
        (f"h{context.heads}d{context.head_dim}{'c' if context.causal else ''}", context.width),
    )


class Choices:
    """All documents of one kind."""

    def __init__(
        self,
        labels: Sequence[str],
        all_: Sequence[Choice],
        *,
        last: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Gather what can be chosen.

        Args:
            labels: names of the facets.
            all_: the documents, most asked for first.
            last: values and labels of the last facet in their order; else that of the documents.
        """
        self._labels = tuple(labels)
        self._by_values = {tuple(value for value, _ in one.values): one for one in all_}
        self._options: list[dict[str, str]] = [{} for _ in labels]
        self._options[-1].update(last)
        self._with: dict[tuple[int, str], list[Choice]] = {}
        for one in all_:
            for facet, (value, label) in enumerate(one.values):
                self._options[facet].setdefault(value, label)
                self._with.setdefault((facet, value), []).append(one)

    def facets(self, current: Choice) -> Facets:
        """Return the way from `current` to every other value of every facet."""
        rows: list[tuple[str, tuple[Option, ...]]] = []
        for facet, label in enumerate(self._labels):
            options = self._options[facet]
            if len(options) > 1:
                chosen = current.values[facet][0]
                rows.append(
                    (
                        label,
                        tuple(
                            Option(text, self._nearest(current, facet, value), value == chosen)
                            for value, text in options.items()
                        ),
                    )
                )
        return Facets(tuple(rows))

    def _nearest(self, current: Choice, facet: int, value: str) -> str:
        """The document with this value that keeps as many of the other choices as there are."""
        kept = tuple(v for v, _ in current.values)
        exact = self._by_values.get((*kept[:facet], value, *kept[facet + 1 :]))
        if exact is not None:
            return exact.path
        count = len(kept)

        def shared(one: Choice) -> int:
            pairs = zip(one.values, kept, strict=True)
            return sum(2 ** (count - at) for at, ((v, _), k) in enumerate(pairs) if v == k)

        return max(self._with[facet, value], key=shared).path
