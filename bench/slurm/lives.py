"""What the tasks of a campaign say: their messages become events; requests go the other way."""

import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.executor import Event, Joined, Lost, Made, Slot
from bench.model import Visit
from bench.slot import event_of
from bench.slurm.mailbox import Inbox, Message, Outbox
from bench.slurm.task import ANSWERS, LIVES, REQUESTS

_FOLDERS_S = 0.25

Start = tuple[str, int]
"""A task, and how often it had been put back into the queue."""


@dataclass(slots=True, eq=False)
class Life:
    """One start of one task."""

    slot: Slot
    start: Start
    kind: str
    """As the devices were asked for."""
    inbox: Inbox
    outbox: Outbox
    number: int = 0
    """Of the last request; the task answers 0 by itself."""
    answered: int = -1
    """Number of the last request that was answered."""
    asked: dict[int, Visit] = field(default_factory=dict[int, Visit])
    """Visits asked for, by the number of the request."""
    joined: Joined | None = None
    told: bool = False
    """The driver knows the slot."""
    employed: bool = False
    """This driver has asked it for something."""
    released: bool = False
    gone: bool = False

    @property
    def busy(self) -> bool:
        """An answer is due."""
        return self.answered < self.number


class Lives:
    """Every start of every task of one campaign."""

    def __init__(self, folder: Path, told: "deque[Event]") -> None:
        """Find what happens in `folder` and add it to `told`."""
        self._folder = folder / LIVES
        self._told = told
        self._by_name: dict[str, Life] = {}
        self._of_slot: dict[Slot, Life] = {}
        self._left_over: dict[tuple[str, Visit], Made] = {}
        self._listed_s = float("-inf")

    def __iter__(self) -> Iterator[Life]:
        return iter(tuple(self._by_name.values()))

    def of(self, slot: Slot) -> Life:
        """Return the life behind a slot."""
        return self._of_slot[slot]

    def read(self) -> None:
        """Read what all of them wrote since the last call, newcomers included."""
        if time.monotonic() - self._listed_s > _FOLDERS_S:
            self._listed_s = time.monotonic()
            self._list(None)
        for life in self:
            if not life.gone and (life.busy or not life.told):
                self.hear(life)

    def take_over(self, running: Collection[Start]) -> None:
        """Read everything that was said to an earlier driver; who is not in `running` is gone."""
        self._list(running)

    def hear(self, life: Life) -> None:
        """Read what one of them wrote since the last call."""
        for message in life.inbox.messages():
            self._heed(life, message)

    def ask(self, life: Life, request: Message, visit: Visit | None) -> None:
        """Send a request that is to be answered.

        Raises:
            OSError: the folder is gone or full.
        """
        life.employed = True
        life.number += 1
        numbered = {**request, "number": life.number}
        if visit is not None:
            life.asked[life.number] = visit
            numbered["visit"] = [visit.case_id, visit.round, visit.repetition]
        life.outbox.send(numbered)

    def left_over(self, life: Life, visit: Visit) -> Made | None:
        """Return what an earlier driver had asked for on such hardware and did not live to read."""
        if life.joined is None:
            return None
        return self._left_over.pop((life.joined.header.environment.hardware_id, visit), None)

    def lose(self, life: Life, reason: str) -> None:
        """Nothing more comes from this one."""
        life.gone = True
        if life.told:
            self._told.append(Lost(slot=life.slot, reason=reason))

    def _list(self, running: Collection[Start] | None) -> None:
        for folder in sorted(self._folder.iterdir()):
            if folder.name in self._by_name:
                continue
            inbox = Inbox(folder / ANSWERS)
            messages = inbox.messages()
            if not messages:
                continue
            life = _born(folder, messages[0], inbox)
            life.gone = running is not None and life.start not in running
            self._by_name[folder.name] = self._of_slot[life.slot] = life
            for message in messages[1:]:
                self._heed(life, message)
            if running is not None:
                self._keep_at_work(life)

    def _keep_at_work(self, life: Life) -> None:
        """Let one go on with what an earlier driver asked it for."""
        making = life.asked.get(life.number)
        if life.joined is not None and life.busy and not life.gone and making is not None:
            life.told = life.employed = True
            self._told.append(replace(life.joined, making=making))

    def _heed(self, life: Life, message: Message) -> None:
        if message["kind"] == "trained":
            if life.told:
                self._told.append(event_of(life.slot, message))
            return
        life.answered = message["number"]
        match event_of(life.slot, message):
            case Lost(reason=reason):
                self.lose(life, reason)
            case Joined() as joined:
                life.joined = joined
            case event if life.told:
                self._told.append(event)
            case Made() as made if not life.busy and life.joined is not None:
                # only its last answer can be one that the earlier driver did not read
                visit = life.asked[life.answered]
                hardware_id = life.joined.header.environment.hardware_id
                self._left_over[(hardware_id, visit)] = made
            case _:
                pass
        if life.joined is not None and not (life.busy or life.told or life.gone):
            life.told = True
            self._told.append(life.joined)


def _born(folder: Path, hello: Message, inbox: Inbox) -> Life:
    slot = Slot(
        node=hello["node"],
        device=f"{hello['device']}, task {hello['task']}",
        life=hello["restarts"] + 1,
    )
    life = Life(
        slot=slot,
        start=(hello["task"], hello["restarts"]),
        kind=hello["of"],
        inbox=inbox,
        outbox=Outbox(folder / REQUESTS),
    )
    for request in Inbox(folder / REQUESTS).messages():
        life.number = request.get("number", life.number)
        if "visit" in request:
            life.asked[life.number] = Visit(*request["visit"])
    return life
