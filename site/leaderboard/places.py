"""Every ranking of the site, and the one that is shown before anything was chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.addresses import ranking
from leaderboard.choices import Choice, context_values
from leaderboard.contexts import Context, Size, ordered_contexts
from leaderboard.results import Result, View

_USUAL_PX = 512
"""Side of the images that are shown before anything was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One ranking."""

    context: Context
    size: Size
    results: tuple[Result, ...]
    choice: Choice


def places(view: View) -> tuple[Place, ...]:
    """Return every ranking of the site, most asked for first."""
    return tuple(
        Place(
            context=context,
            size=size,
            results=results,
            choice=Choice(
                path=ranking(context, size),
                values=(*context_values(view, context), (size.slug, size.short)),
            ),
        )
        for context, sizes in ordered_contexts(view)
        for size, results in sizes.items()
    )


def usual(found: Sequence[Place]) -> Place:
    """Return what is shown before anything was chosen: images of usual size."""
    first = [p for p in found if p.context == found[0].context]
    return min(first, key=lambda p: (_distance(p.size), p.size.order))


def _distance(size: Size) -> float:
    return abs(size.resolution_px - _USUAL_PX) if size.resolution_px else float("inf")
