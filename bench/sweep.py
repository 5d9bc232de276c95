"""One pass through the visits of a plan on all devices of a pool, whoever provides them.

Every kind of device (hardware id) makes the whole plan, in a run of its own: rounds of one case
stay on one kind, and hardware ids never mix. Each visit is journalled when it ends; one whose slot
is lost waits again, and its lost attempts are kept beside it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.description import environment_differences
from bench.dispatch import Dispatch, Group
from bench.executor import (
    Aside,
    Event,
    Joined,
    Limits,
    Lost,
    Made,
    Pool,
    PoolError,
    Progress,
    Said,
    Slot,
    Trained,
)
from bench.journal import Journal, JournalError
from bench.journal_lines import Arrival, Attempt, Entry, Header
from bench.model import Crashed, DeviceKind, NotRun, Plan, Visit
from bench.schedule import ANCHOR, Turn
from bench.terminal import case_words, epoch_words

MOST_ATTEMPTS = 5
"""A case that lost so many slots is the likely reason: it ends as a crash."""
_LOOK_S = 0.5
_ASIDE_S = 30.0
"""A slot that was set aside is asked again after so long."""
_SHOW_S = 1.0


class TimeIsUp(Exception):  # noqa: N818 - no error: the sweep ended when it was asked to
    """The minutes that were given are over and visits are left; the journals can be resumed."""


@dataclass(slots=True)
class _Kind:
    """The run of one kind of device."""

    journal: Journal
    dispatch: Dispatch
    attempts: dict[Visit, tuple[Attempt, ...]] = field(
        default_factory=dict[Visit, tuple[Attempt, ...]]
    )
    """Attempts of visits that are not made yet."""


@dataclass(slots=True)
class _Seat:
    """What a slot does."""

    slot: Slot
    kind: _Kind
    turn: Turn | None = None
    astray: bool = False
    """It makes what an earlier driver asked for and nobody needs."""
    group: Group | None = None
    aside_until: float | None = None
    measuring: bool = False
    measured: bool = False
    released: bool = False
    words: str = "idle"


class Sweep:
    """One pass; `go` returns when every kind has made the whole plan."""

    def __init__(
        self,
        plan: Plan,
        device: DeviceKind,
        journal_of: Callable[[Header], Journal],
        progress: Progress,
        *,
        limits_again: bool = True,
        until_s: float | None = None,
    ) -> None:
        """Begin with nothing.

        Args:
            plan: what to run.
            device: on what kind of device.
            journal_of: the journal for the devices of this header, opened anew or to go on; raises
                JournalError for a device that must not take part.
            progress: told what happens.
            limits_again: whether every slot measures its limits a second time at its end.
            until_s: no visit begins after this, on the monotonic clock; None: all are made.
        """
        self._plan = plan
        self._device: DeviceKind = device
        self._journal_of = journal_of
        self._progress = progress
        self._limits_again = limits_again
        self._until_s = until_s
        self._kinds: dict[str, _Kind] = {}
        self._seats: dict[Slot, _Seat] = {}
        self._refused: list[str] = []
        self._shown_s = 0.0

    def go(self, pool: Pool) -> tuple[Journal, ...]:
        """Make every visit that the journals do not hold yet; return the journals.

        Raises:
            JournalError: the disk is full, or no device may take part.
            PoolError: every device is lost and none will come.
            KeyboardInterrupt: the journals can be resumed.
            TimeIsUp: the same, with visits left at the time given; none was cut off.
        """
        while True:
            for event in pool.wait(self._patience()):
                self._heed(event, pool)
            if self._late(pool) and all(seat.turn is None for seat in self._seats.values()):
                raise TimeIsUp
            for seat in tuple(self._seats.values()):
                self._employ(seat, pool)
            self._show()
            if self._over(pool):
                return tuple(kind.journal for kind in self._kinds.values())
            self._refuse_to_wait_for_nobody(pool)

    def _patience(self) -> float:
        """Nothing is due before an event, except for those who were set aside."""
        due = [seat.aside_until for seat in self._seats.values() if seat.aside_until is not None]
        return max(0.0, min([_LOOK_S, *(at - time.monotonic() for at in due)]))

    def _late(self, pool: Pool) -> bool:
        """Whether the time is up while visits are left; what follows the last one still runs."""
        if self._until_s is None or time.monotonic() < self._until_s:
            return False
        if not self._kinds:
            # without a device that could come, the reason is not the time
            return pool.may_grow()
        waited_for = bool(pool.awaited())
        return waited_for or any(not kind.dispatch.over for kind in self._kinds.values())

    def _over(self, pool: Pool) -> bool:
        at_work = any(
            seat.turn is not None or seat.measuring or not seat.released
            for seat in self._seats.values()
        )
        done = all(kind.dispatch.over for kind in self._kinds.values())
        return bool(self._kinds) and done and not at_work and not pool.awaited()

    def _refuse_to_wait_for_nobody(self, pool: Pool) -> None:
        if self._seats and any(not seat.released for seat in self._seats.values()):
            return
        if pool.may_grow() or pool.awaited():
            return
        if self._refused and not self._kinds:
            raise JournalError("; ".join(self._refused))
        raise PoolError(
            "no device is left that could go on; nothing measured is lost: start again with "
            "--resume when there are devices"
        )

    def _heed(self, event: Event, pool: Pool) -> None:
        match event:
            case Joined():
                self._join(event, pool)
            case Said(text=text):
                self._progress.note(text)
            case Made() | Limits() | Aside() | Lost() | Trained():
                seat = self._seats.get(event.slot)
                if seat is not None:
                    self._answered(seat, event)
                elif isinstance(event, Lost):
                    self._progress.note(f"{event.slot.words} did not join: {event.reason}")

    def _join(self, event: Joined, pool: Pool) -> None:
        header, slot = event.header, event.slot
        id_ = header.environment.hardware_id
        try:
            kind = self._kinds.get(id_)
            if kind is None:
                journal = self._journal_of(header)
                kind = _Kind(journal, Dispatch(self._plan, self._device, journal.outcomes))
                self._kinds[id_] = kind
            else:
                kind.journal.check_resumable(header)
            first = kind.journal.header
            differing = environment_differences(first.environment, header.environment)
            if differing:
                raise JournalError(f"another environment: {'; '.join(differing)}")
        except JournalError as refusal:
            self._refused.append(f"{slot.words} cannot take part: {refusal}")
            self._progress.note(self._refused[-1])
            pool.release(slot)
            return
        if header.ceilings != first.ceilings:
            kind.journal.arrived(Arrival(slot=slot.words, ceilings=header.ceilings))
        seat = self._seats[slot] = _Seat(slot, kind)
        if event.making is not None:
            seat.turn = kind.dispatch.claim(event.making)
            seat.astray = seat.turn is None
            if seat.turn is not None:
                seat.words = case_words(seat.turn.case)

    def _answered(self, seat: _Seat, event: Made | Limits | Aside | Lost | Trained) -> None:
        match event:
            case Made():
                self._made(seat, event)
            case Trained(epoch=epoch):
                if len(self._seats) == 1:
                    self._progress.trained(epoch)
                if seat.turn is not None:
                    seat.words = f"{case_words(seat.turn.case)}: {epoch_words(epoch)}"
            case Limits(ceilings=ceilings):
                arrival = Arrival(slot=seat.slot.words, ceilings=ceilings)
                seat.kind.journal.arrived(arrival)
                seat.measuring, seat.measured = False, True
            case Aside(reason=reason):
                self._progress.note(f"{seat.slot.words} is set aside: {reason}")
                self._return(seat)
                seat.aside_until = time.monotonic() + _ASIDE_S
                seat.words = f"set aside: {reason}"
            case Lost(reason=reason):
                self._lost(seat, reason)

    def _made(self, seat: _Seat, event: Made) -> None:
        turn, kind = seat.turn, seat.kind
        if seat.astray:
            seat.astray = False
            return
        if turn is None:
            raise PoolError(f"{seat.slot.words} answered what it was not asked")
        seat.turn = None
        kind.journal.append(
            Entry(
                case_id=turn.visit.case_id,
                round=turn.visit.round,
                repetition=turn.visit.repetition,
                outcome=event.outcome,
                wall_s=event.wall_s,
                measured_s=event.measured_s,
                foreign_load=event.foreign_load,
                slot=event.by or seat.slot.words,
                attempts=kind.attempts.pop(turn.visit, ()),
            )
        )
        kind.dispatch.settle(turn, event.outcome)
        self._progress.finished(turn.case, event.outcome)

    def _lost(self, seat: _Seat, reason: str) -> None:
        del self._seats[seat.slot]
        turn, kind = seat.turn, seat.kind
        if seat.released:
            return
        if turn is None:
            self._progress.note(f"{seat.slot.words} is lost: {reason}")
            return
        attempt = Attempt(slot=seat.slot.words, reason=reason)
        attempts = (*kind.attempts.pop(turn.visit, ()), attempt)
        again = len(attempts) < MOST_ATTEMPTS
        self._progress.note(
            f"{seat.slot.words} is lost: {reason}; {case_words(turn.case)} is "
            f"{'made again' if again else 'given up'}"
        )
        if again:
            kind.attempts[turn.visit] = attempts
            kind.dispatch.give_back(turn)
            return
        words = f"its slot was lost in each of {len(attempts)} attempts, at last: {reason}"
        self._written(kind, turn, Crashed(exit_code=-9, reason=words), attempts)

    def _return(self, seat: _Seat) -> None:
        if seat.turn is not None:
            seat.kind.dispatch.give_back(seat.turn)
            seat.turn = None

    def _employ(self, seat: _Seat, pool: Pool) -> None:
        """Give an idle slot something to do, if there is anything."""
        if seat.turn is not None or seat.measuring or seat.released or self._late(pool):
            return
        if seat.astray and not seat.kind.dispatch.over:
            return
        if seat.aside_until is not None and not seat.kind.dispatch.over:
            if time.monotonic() < seat.aside_until:
                return
            seat.aside_until = None
        turn = self._next(seat)
        if turn is not None:
            seat.turn = turn
            if turn.group != ANCHOR:
                seat.group = seat.kind.dispatch.group_of(turn)
            seat.words = case_words(turn.case)
            self._progress.started(turn.case, *self._done())
            pool.visit(seat.slot, turn, seat.kind.journal.path.with_suffix(""))
        elif not seat.kind.dispatch.over:
            seat.words = "idle"
        elif self._limits_again and not seat.measured and not seat.astray:
            seat.measuring, seat.words = True, "measuring its limits again"
            pool.measure(seat.slot)
        else:
            seat.released, seat.words = True, "done"
            pool.release(seat.slot)

    def _next(self, seat: _Seat) -> Turn | None:
        """The next visit that needs a device; those that need none are written at once."""
        dispatch = seat.kind.dispatch
        while (turn := dispatch.take(seat.group)) is not None:
            reason = dispatch.needless(turn.case)
            if reason is None:
                return turn
            self._progress.started(turn.case, *self._done())
            self._written(seat.kind, turn, reason, ())
        return None

    def _written(
        self, kind: _Kind, turn: Turn, outcome: NotRun | Crashed, attempts: tuple[Attempt, ...]
    ) -> None:
        """Write an outcome that no device gave."""
        kind.journal.append(
            Entry(
                case_id=turn.visit.case_id,
                round=turn.visit.round,
                repetition=turn.visit.repetition,
                outcome=outcome,
                wall_s=0.0,
                measured_s=0.0,
                foreign_load=None,
                attempts=attempts,
            )
        )
        kind.dispatch.settle(turn, outcome)
        self._progress.finished(turn.case, outcome)

    def _done(self) -> tuple[int, int]:
        """Visits that are settled, and all, of every kind."""
        kinds = self._kinds.values()
        return sum(k.dispatch.settled for k in kinds), sum(k.dispatch.total for k in kinds)

    def _show(self) -> None:
        if len(self._seats) > 1 and time.monotonic() - self._shown_s > _SHOW_S:
            self._shown_s = time.monotonic()
            self._progress.slots({seat.slot: seat.words for seat in self._seats.values()})
