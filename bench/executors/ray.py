"""Runs the visits on the GPUs of a Ray cluster: one actor with one whole GPU for each slot.

Ray places the actors, so no two visits share a GPU, and says when one has died. Every node needs
the same checkout at the same path, on a shared file system or in its image.
"""

import contextlib
import importlib
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.executor import Commission, Event, Executor, Lost, PoolError, Progress, Said, Slot
from bench.model import TaskRun
from bench.ray import cluster
from bench.ray.actor import Served
from bench.ray.cluster import gpus_of, resource_of
from bench.ray.options import OPTIONS, Kind, kinds
from bench.schedule import Turn
from bench.slot import Message, event_of, limits_request, open_request, visit_request

_LOOK_AGAIN_S = 2.0
"""Between two looks at what the cluster has."""
_PAUSE_S = 1.0
"""At most between two looks while no actor was asked for anything."""
_MOST_FAILURES = 20
"""Actors in a row that die before they join: then it is not chance, and no more are started."""
_LISTENERS = "listeners"
"""Calls of this group are served beside a visit; all others one after the other, in one thread."""


@dataclass(slots=True)
class _Actor:
    """Our end of one actor."""

    handle: Any
    kind: Kind
    node: str | None = None
    """The node that it must run on; None: Ray chooses."""
    slot: Slot | None = None
    pid: int | None = None
    number: int = 0
    """Requests so far."""
    busy: bool = False
    """The last of them is not answered."""


@dataclass(slots=True)
class RayPool:
    """The slots of one run."""

    ray: Any
    commission: Commission
    kinds: tuple[Kind, ...]
    _actors: list[_Actor] = field(default_factory=list[_Actor])
    _calls: dict[Any, _Actor] = field(default_factory=dict[Any, _Actor])
    _listening: dict[Any, tuple[_Actor, int]] = field(default_factory=dict[Any, tuple[_Actor, int]])
    """Calls that tell how far a training is, and the number of its request."""
    _told: list[Event] = field(default_factory=list[Event])
    _lives: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    _joined: set[str | None] = field(default_factory=set[str | None])
    _released: Counter[str | None] = field(default_factory=Counter[str | None])
    _spent: set[str | None] = field(default_factory=set[str | None])
    """Nodes whose one slot was released."""
    _failures: int = 0
    """Actors in a row that died before they joined."""
    _looked_s: float = 0.0
    _request: Any = None

    def __enter__(self) -> "RayPool":
        given = self.commission
        request = open_request(given.plan, given.device, given.threads, given.only, given.together)
        try:
            self._request = self.ray.put(request)
            self._recruit()
            if not self._actors and all(kind.count is None for kind in self.kinds):
                raise PoolError(
                    f"no node of the Ray cluster has {_many(given.together)}: add nodes that have, "
                    "or give --device cpu"
                )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for actor in self._actors:
            self._kill(actor)
        self._actors.clear()
        self.ray.shutdown()

    def visit(self, slot: Slot, turn: Turn, checkpoints: Path) -> None:
        """Call the actor; trainings are listened to."""
        actor = self._ask(slot, visit_request(turn, checkpoints))
        if actor is not None and isinstance(turn.case.stimulus, TaskRun):
            self._listen(actor, actor.number)

    def measure(self, slot: Slot) -> None:
        """Call the actor."""
        self._ask(slot, limits_request())

    def release(self, slot: Slot) -> None:
        """End the actor: its GPU is free for others."""
        for actor in [actor for actor in self._actors if actor.slot == slot]:
            self._actors.remove(actor)
            # it was not needed any more: none takes its place
            self._released[actor.kind.name] += 1
            self._spent.add(actor.node)
            self._kill(actor)

    def wait(self, timeout_s: float) -> tuple[Event, ...]:
        """Return answers, and recruit where devices are missing."""
        self._recruit()
        if not self._told:
            # listeners first: what was said before an answer is told before it
            calls = [*self._listening, *self._calls]
            if calls:
                ready, _ = self.ray.wait(calls, num_returns=1, timeout=timeout_s)
                if ready:
                    ready, _ = self.ray.wait(calls, num_returns=len(calls), timeout=0)
                for call in ready:
                    if call in self._listening:
                        self._hear(call)
                    else:
                        self._receive(call)
            else:
                time.sleep(min(timeout_s, _PAUSE_S))
        found = tuple(self._told)
        self._told.clear()
        return found

    def awaited(self) -> tuple[str, ...]:
        """Kinds that were asked for by name, have not come, and may come yet."""
        missing = [k.name for k in self.kinds if k.name and k.name not in self._joined]
        return tuple(name for name in missing if self._hiring or name in self._waiting)

    def may_grow(self) -> bool:
        """Actors that wait for their place, and nodes that may come (back)."""
        return self._hiring or bool(self._waiting)

    def processes(self) -> dict[Slot, int]:
        """The process of each slot, on its node."""
        return {a.slot: a.pid for a in self._actors if a.slot is not None and a.pid is not None}

    def _ask(self, slot: Slot, request: Message) -> _Actor | None:
        for actor in self._actors:
            if actor.slot == slot:
                actor.number += 1
                actor.busy = True
                self._calls[actor.handle.answer.remote(request, actor.number)] = actor
                return actor
        self._told.append(Lost(slot=slot, reason="its actor is gone"))
        return None

    def _listen(self, actor: _Actor, number: int) -> None:
        heard = actor.handle.heard.options(concurrency_group=_LISTENERS)
        self._listening[heard.remote(number)] = (actor, number)

    def _hear(self, call: Any) -> None:
        actor, number = self._listening.pop(call)
        if not actor.busy or actor.number != number or actor.slot is None:
            return
        try:
            messages = self.ray.get(call)
        except self.ray.exceptions.RayError:
            return  # its answer's call says what happened
        for message in messages:
            self._told.append(event_of(actor.slot, message))
        if messages:
            self._listen(actor, number)

    def _receive(self, call: Any) -> None:
        actor = self._calls.pop(call)
        actor.busy = False
        if actor not in self._actors:
            return
        try:
            message = self.ray.get(call)
        except self.ray.exceptions.RayError as failure:
            self._bury(actor, _first_line(failure))
            return
        if actor.slot is None:
            self._opened(actor, message)
            return
        event = event_of(actor.slot, message)
        if isinstance(event, Lost):
            self._bury(actor, event.reason)
        else:
            self._told.append(event)

    def _opened(self, actor: _Actor, message: Message) -> None:
        place = (message["node"], message["device"])
        self._lives[place] = self._lives.get(place, 0) + 1
        slot = Slot(node=place[0], device=place[1], life=self._lives[place])
        event = event_of(slot, message["answer"])
        if isinstance(event, Lost):
            self._bury(actor, f"on {slot.words}: {event.reason}")
            return
        actor.slot, actor.pid = slot, message["pid"]
        self._failures = 0
        self._joined.add(actor.kind.name)
        self._told.append(event)

    def _bury(self, actor: _Actor, reason: str) -> None:
        self._actors.remove(actor)
        self._kill(actor)
        if actor.slot is not None:
            self._told.append(Lost(slot=actor.slot, reason=reason))
            return
        self._failures += 1
        self._told.append(Said(text=f"an actor died before it joined: {reason}"))
        if self._hiring:
            return
        if not self._actors:
            raise PoolError(f"{self._failures} actors in a row died before they joined: {reason}")
        if self._failures == _MOST_FAILURES:
            words = f"{self._failures} actors in a row died before they joined; no more are started"
            self._told.append(Said(text=words))

    @property
    def _hiring(self) -> bool:
        return self._failures < _MOST_FAILURES

    @property
    def _waiting(self) -> set[str | None]:
        """Kinds of the actors that have not joined yet."""
        return {actor.kind.name for actor in self._actors if actor.slot is None}

    def _kill(self, actor: _Actor) -> None:
        for call in [call for call, owner in self._calls.items() if owner is actor]:
            del self._calls[call]
        for call in [call for call, (owner, _) in self._listening.items() if owner is actor]:
            del self._listening[call]
        with contextlib.suppress(Exception):  # it is dead, or Ray is
            self.ray.kill(actor.handle)

    def _recruit(self) -> None:
        """Have an actor for each device that is wanted and not there."""
        if not self._hiring or time.monotonic() - self._looked_s < _LOOK_AGAIN_S:
            return
        self._looked_s = time.monotonic()
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        for kind in self.kinds:
            if kind.name is None and self.commission.device == "cpu":
                self._hire_on_each(kind, nodes)
                continue
            have = sum(actor.kind.name == kind.name for actor in self._actors)
            together = self.commission.together
            # a group is one node's: its processes meet there
            present = sum(gpus_of(node) // together for node in nodes)
            wanted = (kind.count or present) - self._released[kind.name]
            for _ in range(have, wanted):
                wishes: dict[str, Any] = {"num_gpus": together}
                if kind.name is not None:
                    wishes["resources"] = {resource_of(kind.name, nodes): 0.001}
                self._hire(kind, wishes)

    def _hire_on_each(self, kind: Kind, nodes: list[Any]) -> None:
        """One slot a node, with all its CPUs."""
        affinity = importlib.import_module("ray.util.scheduling_strategies")
        taken = {actor.node for actor in self._actors}
        for node in nodes:
            if node["Resources"].get("CPU") and node["NodeID"] not in taken | self._spent:
                strategy = affinity.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                self._hire(kind, {"scheduling_strategy": strategy}, node["NodeID"])

    def _hire(self, kind: Kind, wishes: dict[str, Any], node: str | None = None) -> None:
        # the sweep decides what is made again, so Ray must not
        options = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, **wishes}
        served = self.ray.remote(concurrency_groups={_LISTENERS: 1})(Served)
        actor = _Actor(served.options(**options).remote(), kind, node)
        self._actors.append(actor)
        self._calls[actor.handle.open.remote(self._request)] = actor


def _many(together: int) -> str:
    return "a GPU" if together == 1 else f"{together} GPUs"


def _first_line(failure: BaseException) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {lines[0] if lines else 'no more is known'}"


def pool(commission: Commission, progress: Progress) -> RayPool:
    """Join a cluster, or start one on this machine.

    Raises:
        PoolError: Ray is not installed, or the cluster cannot be reached.
        ValueError: `--gpus` makes no sense.
    """
    wanted = kinds(commission.options.get("gpus"), commission.together)
    ray = cluster.joined(commission.options.get("address"), progress.note)
    return RayPool(ray, commission, wanted)


EXECUTOR = Executor(name="ray", title="the GPUs of a Ray cluster", pool=pool, options=OPTIONS)
