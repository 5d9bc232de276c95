"""Which visit of a plan is made next, when several devices make them at once.

With one device the order is that of the schedule. With several, each takes the first visit that
nothing stands before: the visits of one case come round after round, and in round 0 the sizes of a
family come in ascending order, because a size that fails spares the larger ones.
"""

import heapq
from collections.abc import Callable, Mapping
from itertools import pairwise

from bench.model import Case, DeviceKind, NotRun, Ok, Outcome, Plan, Timed, Visit
from bench.schedule import ANCHOR, SizeFailures, Turn, extent, family, visits

Group = tuple[int, str]
"""Round and group of visits that share a process."""


class Dispatch:
    """The visits of one plan on devices of one kind: waiting, under way, settled."""

    def __init__(self, plan: Plan, device: DeviceKind, outcomes: Mapping[Visit, Outcome]) -> None:
        """Begin after the visits in `outcomes`."""
        self._turns = visits(plan, device)
        self._grouped = device == "cuda"
        self._place = {turn.visit: place for place, turn in enumerate(self._turns)}
        self._of_case: dict[str, list[int]] = {}
        for place, turn in enumerate(self._turns):
            self._of_case.setdefault(turn.visit.case_id, []).append(place)
        self._settled = [False] * len(self._turns)
        self._done = 0
        self._running: set[int] = set()
        self._held: dict[Group, int] = {}
        self._failed: set[str] = set()
        self._sizes = SizeFailures()
        self._after: list[list[int]] = [[] for _ in self._turns]
        self._before = [0] * len(self._turns)
        self._ready: dict[Group, list[int]] = {}
        self._order()
        for place, before in enumerate(self._before):
            if not before:
                self._offer(place)
        for visit, outcome in outcomes.items():
            if visit in self._place:
                self._conclude(self._place[visit], outcome)

    @property
    def total(self) -> int:
        """Visits of the plan."""
        return len(self._turns)

    @property
    def settled(self) -> int:
        """Visits made, or needless because their case has failed."""
        return self._done

    @property
    def over(self) -> bool:
        """Every visit is settled."""
        return self._done == len(self._turns)

    def take(self, group: Group | None = None) -> Turn | None:
        """Return the visit to make next and count it as under way; None: none can be begun now.

        Args:
            group: where a process of the asking device already runs, whose visits come first.
        """
        chosen = self._choose(group)
        if chosen is None:
            return None
        place = heapq.heappop(self._ready[chosen])
        if not self._ready[chosen]:
            del self._ready[chosen]
        self._running.add(place)
        self._held[chosen] = self._held.get(chosen, 0) + 1
        return self._turns[place]

    def claim(self, visit: Visit) -> Turn | None:
        """Count a visit as under way that a device makes already; None: it need not be made."""
        place = self._place.get(visit)
        if place is None or self._settled[place]:
            return None
        key = self.group_of(self._turns[place])
        waiting = self._ready.get(key, [])
        if place not in waiting:
            return None
        waiting.remove(place)
        heapq.heapify(waiting)
        if not waiting:
            del self._ready[key]
        self._running.add(place)
        self._held[key] = self._held.get(key, 0) + 1
        return self._turns[place]

    def give_back(self, turn: Turn) -> None:
        """A visit under way was lost with its device: it waits again, in its old place."""
        place = self._place[turn.visit]
        self._stop(place)
        if turn.visit.case_id in self._failed:
            self._mark(place)
        self._offer(place)

    def settle(self, turn: Turn, outcome: Outcome) -> None:
        """The visit ended."""
        place = self._place[turn.visit]
        self._stop(place)
        self._conclude(place, outcome)

    def needless(self, case: Case) -> NotRun | None:
        """Say why `case` need not be tried; None: it must be."""
        return self._sizes.needless(case)

    def group_of(self, turn: Turn) -> Group:
        """Return whose process makes `turn`; on CPU every visit has its own."""
        return (turn.visit.round, turn.group if self._grouped else "")

    def spans(self, seconds: Callable[[Turn], float]) -> tuple[float, float]:
        """Return the seconds of all visits one after the other, and of the longest chain."""
        left = [0] * len(self._turns)
        for later in self._after:
            for place in later:
                left[place] += 1
        ends = [0.0] * len(self._turns)
        begins = [0.0] * len(self._turns)
        open_ = [place for place, count in enumerate(left) if not count]
        total_s = 0.0
        while open_:
            place = open_.pop()
            took_s = seconds(self._turns[place])
            total_s += took_s
            ends[place] = begins[place] + took_s
            for later in self._after[place]:
                begins[later] = max(begins[later], ends[place])
                left[later] -= 1
                if not left[later]:
                    open_.append(later)
        return total_s, max(ends, default=0.0)

    def _choose(self, group: Group | None) -> Group | None:
        """The asking device's group; else the first that no device holds; else the first."""
        self._sweep()
        if group in self._ready:
            return group
        free = [key for key in self._ready if not self._held.get(key)] or list(self._ready)
        return min(free, key=lambda key: self._ready[key][0], default=None)

    def _sweep(self) -> None:
        """Forget places that were settled while they waited."""
        for key in list(self._ready):
            heap = self._ready[key]
            while heap and self._settled[heap[0]]:
                heapq.heappop(heap)
            if not heap:
                del self._ready[key]

    def _stop(self, place: int) -> None:
        self._running.discard(place)
        key = self.group_of(self._turns[place])
        self._held[key] = max(0, self._held.get(key, 0) - 1)

    def _offer(self, place: int) -> None:
        if not self._settled[place] and place not in self._running:
            heapq.heappush(self._ready.setdefault(self.group_of(self._turns[place]), []), place)

    def _conclude(self, place: int, outcome: Outcome) -> None:
        turn = self._turns[place]
        self._sizes.add(turn.case, outcome)
        self._mark(place)
        if isinstance(outcome, Ok) or turn.visit.case_id in self._failed:
            return
        self._failed.add(turn.visit.case_id)
        for other in self._of_case[turn.visit.case_id]:
            if other not in self._running:
                self._mark(other)

    def _mark(self, place: int) -> None:
        if self._settled[place]:
            return
        self._settled[place] = True
        self._done += 1
        for later in self._after[place]:
            self._before[later] -= 1
            if not self._before[later]:
                self._offer(later)

    def _order(self) -> None:
        """Say what comes before what."""
        ladders: dict[object, dict[int, list[int]]] = {}
        for place, turn in enumerate(self._turns):
            if turn.group == ANCHOR:
                continue
            ladders.setdefault(turn.visit.case_id, {}).setdefault(turn.visit.round, []).append(
                place
            )
            if turn.visit.round == 0 and isinstance(turn.case.stimulus, Timed):
                sizes = ladders.setdefault(("sizes", family(turn.case)), {})
                sizes.setdefault(extent(turn.case.stimulus), []).append(place)
        for ladder in ladders.values():
            rungs = [ladder[height] for height in sorted(ladder)]
            for lower, upper in pairwise(rungs):
                for place in lower:
                    self._after[place] += upper
                for place in upper:
                    self._before[place] += len(lower)
