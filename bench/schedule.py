"""In which order the visits of a plan run, and which of them failures make needless."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from bench.model import (
    Case,
    DeviceKind,
    Images,
    NotRun,
    Outcome,
    OutOfMemory,
    Plan,
    Timed,
    TimedOut,
    Visit,
)

ANCHOR = "anchor"
"""Group of the anchor's visits."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One visit in its place."""

    visit: Visit
    case: Case
    group: str
    """On CUDA the visits of one group and round share a process; `anchor` for the anchor's."""


def visits(plan: Plan, device: DeviceKind) -> tuple[Turn, ...]:
    """Return every visit of `plan` in order: a function of the plan, its seed and the device.

    Each round covers the whole plan in its own shuffled order; the second visit of an A/A pair has
    its own place, so that a pair sees the same drift as two different cases. In round 0 the sizes
    of one family come in ascending order, because a size that fails spares the larger ones. The
    anchor comes first and then after every `anchor_every` visits. Tasks and frontiers run once.
    """
    order = random.Random(plan.protocol.seed)
    turns: list[Turn] = []
    for round_ in range(plan.protocol.rounds):
        due = _due(plan, round_)
        order.shuffle(due)
        if device == "cuda":
            groups = list({turn.group: None for turn in due})
            due.sort(key=lambda turn: groups.index(turn.group))
        if round_ == 0:
            due = _sizes_ascending(due)
        turns += _with_anchors(plan, round_, due)
    return tuple(turns)


def needless(
    case: Case, cases: Mapping[str, Case], outcomes: Mapping[Visit, Outcome]
) -> NotRun | None:
    """Say why `case` need not be tried: a smaller size of its family already failed.

    Args:
        case: the one to try next.
        cases: every case of the plan by id.
        outcomes: what became of the visits so far.
    """
    failures = SizeFailures()
    for visit, outcome in outcomes.items():
        if isinstance(outcome, TimedOut | OutOfMemory) and visit.case_id in cases:
            failures.add(cases[visit.case_id], outcome)
    return failures.needless(case)


class SizeFailures:
    """The smallest size of each family that ran out of time or memory."""

    def __init__(self) -> None:
        self._smallest: dict[object, tuple[int, str, Outcome]] = {}

    def add(self, case: Case, outcome: Outcome) -> None:
        """Remember what became of a visit of `case`, where it spares larger sizes."""
        if not isinstance(outcome, TimedOut | OutOfMemory):
            return
        if not isinstance(case.stimulus, Timed):
            return
        found = (extent(case.stimulus), case.id, outcome)
        before = self._smallest.get(family(case))
        if before is None or found[:2] < before[:2]:
            self._smallest[family(case)] = found

    def needless(self, case: Case) -> NotRun | None:
        """Say why `case` need not be tried; None: it must be."""
        if not self._smallest or not isinstance(case.stimulus, Timed):
            return None
        smallest = self._smallest.get(family(case))
        if smallest is None or smallest[0] >= extent(case.stimulus):
            return None
        _, id_, outcome = smallest
        happened = "timed out" if isinstance(outcome, TimedOut) else "ran out of memory"
        return NotRun(reason=f"the smaller size {id_} {happened}")


def _due(plan: Plan, round_: int) -> list[Turn]:
    paired = {case.id for case in plan.noise_pairs}
    due: list[Turn] = []
    for case in {case.id: case for case in (*plan.cases, *plan.noise_pairs)}.values():
        if round_ and not isinstance(case.stimulus, Timed):
            continue
        for repetition in range(2 if case.id in paired else 1):
            group = f"{case.variant}/{repetition}"
            due.append(Turn(Visit(case.id, round_, repetition), case, group))
    return due


def family(case: Case) -> object:
    """Everything that two sizes of one sweep share."""
    s = case.stimulus
    if not isinstance(s, Timed):
        return case.id
    if isinstance(s, Images):
        sizes = (s.batch_policy, s.backbone, s.dtype, s.passes)
    else:
        sizes = (s.batch_policy, s.heads, s.head_dim, s.extra_tokens, s.causal, s.dtype, s.passes)
    return (case.variant, case.backend, case.level, tuple(sorted(case.options.items())), sizes)


def extent(stimulus: Timed) -> int:
    """What grows along a sweep: tokens of a layer, pixels of a network."""
    return stimulus.resolution_px**2 if isinstance(stimulus, Images) else stimulus.tokens


def _sizes_ascending(turns: list[Turn]) -> list[Turn]:
    """Sort the sizes of each family among the places that the family holds."""
    places: dict[object, list[int]] = {}
    for place, turn in enumerate(turns):
        places.setdefault((family(turn.case), turn.group), []).append(place)
    ordered = list(turns)
    for held in places.values():
        members = sorted((turns[place] for place in held), key=_size)
        for place, turn in zip(held, members, strict=True):
            ordered[place] = turn
    return ordered


def _size(turn: Turn) -> tuple[int, str]:
    stimulus = turn.case.stimulus
    return (extent(stimulus) if isinstance(stimulus, Timed) else 0, turn.case.id)


def _with_anchors(plan: Plan, round_: int, due: list[Turn]) -> list[Turn]:
    taken = sum(turn.visit.case_id == plan.anchor.id for turn in due)
    turns: list[Turn] = []
    for place, turn in enumerate(due):
        if place % plan.protocol.anchor_every == 0:
            running = taken + place // plan.protocol.anchor_every
            anchor = Visit(plan.anchor.id, round_, running)
            turns.append(Turn(anchor, plan.anchor, ANCHOR))
        turns.append(turn)
    return turns
