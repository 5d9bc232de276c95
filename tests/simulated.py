"""Slots that make visits in no time, on a clock of their own, and are lost or set aside at will."""

import heapq
import random
from dataclasses import replace

from bench.executor import Aside, Joined, Limits, Lost, Made, Slot
from bench.model import Measured, Ok


def ok(case, round_):
    """An outcome that follows from the case and the round alone."""
    latency = (1.0 + len(case.id), 2.0 + round_, 3.0)
    return Ok(measurements=(Measured(metric="latency", rounds=(latency,)),), executed="-", batch=1)


def on(header, hardware_id):
    """The header of a device of another kind."""
    return replace(header, environment=replace(header.environment, hardware_id=hardware_id))


class Told:
    """Remembers what it is told."""

    def __init__(self):
        self.notes, self.done, self.doing = [], [], []

    def started(self, case, done, total):
        self.done.append((done, total))

    def finished(self, case, outcome):
        pass

    def trained(self, epoch):
        pass

    def slots(self, doing):
        self.doing.append(dict(doing))

    def note(self, text):
        self.notes.append(text)


class SimulatedPool:
    """As many slots as headers; `clock` is the time at which the last event happened."""

    def __init__(
        self,
        headers,
        *,
        outcome=ok,
        seconds=lambda turn: 1.0,
        losses=0.0,
        poison=None,
        asides=0,
        seed=0,
        returns=True,
    ):
        self.clock, self.busy_s = 0.0, 0.0
        self._outcome, self._seconds, self._losses = outcome, seconds, losses
        self._poison, self._asides, self._returns = poison, asides, returns
        self._chance = random.Random(seed)
        self._events, self._count = [], 0
        self._alive = {}
        self.released, self.made_on, self.measured = [], {}, []
        for number, header in enumerate(headers):
            self._join(Slot(node=f"node{number // 4}", device=f"gpu {number % 4}"), header)

    def _join(self, slot, header):
        self._alive[slot] = header
        self._push(0.0, Joined(slot=slot, header=header))

    def _push(self, after_s, event):
        self._count += 1
        heapq.heappush(self._events, (self.clock + after_s, self._count, event))

    def visit(self, slot, turn, checkpoints):
        assert slot in self._alive, "asked a slot that is gone"
        seconds = self._seconds(turn)
        if self._asides:
            self._asides -= 1
            self._push(0.0, Aside(slot=slot, reason="1 foreign process on it"))
        elif turn.case == self._poison or self._chance.random() < self._losses:
            header = self._alive.pop(slot)
            self._push(seconds / 2, Lost(slot=slot, reason="preempted"))
            late = Made(slot=slot, outcome=self._outcome(turn.case, turn.visit.round),
                        wall_s=1.0, measured_s=1.0, foreign_load=None)  # fmt: skip
            self._push(seconds, late)
            if self._returns:
                again = replace(slot, life=slot.life + 1)
                self._alive[again] = header
                self._push(seconds, Joined(slot=again, header=header))
        else:
            self.busy_s += seconds
            self.made_on.setdefault(turn.visit.case_id, set()).add(slot)
            self._push(seconds, Made(slot=slot, outcome=self._outcome(turn.case, turn.visit.round),
                                     wall_s=seconds, measured_s=0.5 * seconds,
                                     foreign_load=0.0))  # fmt: skip

    def measure(self, slot):
        self.measured.append(slot)
        self._push(0.0, Limits(slot=slot, ceilings=self._alive[slot].ceilings))

    def release(self, slot):
        self.released.append(slot)

    def wait(self, timeout_s):
        if not self._events:
            return ()
        self.clock, _, event = heapq.heappop(self._events)
        return (event,)

    def awaited(self):
        return ()

    def may_grow(self):
        return bool(self._events)
