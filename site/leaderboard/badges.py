"""Badges of variants for use elsewhere, in the form of shields.io endpoints."""

from collections.abc import Iterator

from leaderboard.contexts import slug
from leaderboard.format import measure
from leaderboard.page import RawFile
from leaderboard.places import Place, places, usual
from leaderboard.ranking import grouped
from leaderboard.rendering import json_text
from leaderboard.results import View


def badge_path(variant: str, hardware_id: str) -> str:
    """Return where the badge of a variant on a machine lies."""
    return f"badges/{variant}/{slug(hardware_id)}.json"


def files(view: View) -> Iterator[RawFile]:
    """Yield a badge for every variant and machine with a rank at the usual size."""
    everywhere = places(view)
    for hardware_id in view.machines:
        mine = [p for p in everywhere if p.context.hardware_id == hardware_id]
        asked = [p for p in mine if p.context.batch_policy == "one" and not p.context.causal]
        if asked:
            yield from _of_machine(view, hardware_id, usual(asked))


def _of_machine(view: View, hardware_id: str, place: Place) -> Iterator[RawFile]:
    size = place.size
    where = f"{size.resolution_px} px" if size.resolution_px else f"{size.tokens} tokens"
    for group in grouped(view, place.results, metric="latency", better="lower"):
        seen: set[str] = set()
        for placed in group.ranked:
            result = placed.result
            # the best execution speaks for its variant
            if result.variant in seen:
                continue
            seen.add(result.variant)
            latency = measure("s", result.numbers["latency"].value)
            tie = "=" if placed.tied else ""
            document = {
                "schemaVersion": 1,
                "label": f"{view.title(result.variant)} at {where}",
                "message": f"{latency}, rank {tie}{placed.rank} of {len(group.ranked)}",
                "color": "blue" if placed.rank == 1 else "lightgrey",
            }
            yield RawFile(
                path=badge_path(result.variant, hardware_id),
                contents=json_text(document).encode(),
            )
