"""Runs the visits on the GPUs of a Ray cluster: one actor with one whole GPU for each slot.

Ray places the actors, so no two visits share a GPU, and says when one has died. An actor lives
for the whole run, because a worker with torch imported is what a visit costs most. Every node needs
the same checkout at the same path, on a shared file system or in its image.
"""

import contextlib
import importlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.devices import shared, usable
from bench.executor import (
    Commission,
    Event,
    Executor,
    Lost,
    Option,
    PoolError,
    Progress,
    Said,
    Slot,
)
from bench.model import TaskRun
from bench.schedule import Turn
from bench.slot import (
    Message,
    SlotServer,
    event_of,
    limits_request,
    open_request,
    visit_request,
)

_ROOT = str(Path(__file__).parents[2])
_LOOK_AGAIN_S = 2.0
_PAUSE_S = 1.0
_LISTENER_S = 10.0
"""Between a slot's failure to open and the next try."""
_MOST_FAILURES = 20
"""Actors in a row that die before they join: then it is not chance."""
_LISTENERS = "listeners"
"""Calls of this group are served beside a visit; all others one after the other, in one thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Devices that were asked for."""

    name: str | None
    """Accelerator type or custom resource; None: any."""
    count: int | None
    """Slots of it; None: as many as the cluster has."""


def kinds(text: str | None, together: int = 1) -> tuple[Kind, ...]:
    """Read `h100:4,a100:8`.

    Raises:
        ValueError: it is not of that form, or a number is not one of whole groups.
    """
    if text is None:
        return (Kind(name=None, count=None),)
    found: list[Kind] = []
    for part in text.split(","):
        name, _, count = part.strip().partition(":")
        if not name or not count.isdecimal() or int(count) < 1:
            raise ValueError(f"--gpus {text}: give kinds and numbers, such as h100:4,a100:8")
        if int(count) % together:
            raise ValueError(
                f"--gpus {text}: {count} cannot be put into groups of {together} (--together)"
            )
        found.append(Kind(name=name, count=int(count) // together))
    if len({kind.name for kind in found}) != len(found):
        raise ValueError(f"--gpus {text}: a kind is there twice")
    return tuple(found)


class Spoken:
    """What a slot says while it serves a request, kept for a listener in another thread."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self._changed = threading.Condition()
        self._messages: list[Message] = []
        self._number = 0
        self._over = True

    def begin(self, number: int) -> None:
        """The request of this number is served from now on."""
        with self._changed:
            self._number, self._over, self._messages = number, False, []
            self._changed.notify_all()

    def say(self, message: Message) -> None:
        """Keep a message."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def end(self) -> None:
        """The request has its answer."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def heard(self, number: int) -> list[Message]:
        """Wait for what is said during a request; empty once nothing more will be."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._number > number
                    or (self._number == number and (self._over or bool(self._messages)))
                )
            )
            if self._number != number:
                return []
            found, self._messages = self._messages, []
            return found


class Served:
    """What an actor does: it opens a slot on the device that Ray gave it, and serves it."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._server = SlotServer()
        self._spoken = Spoken()

    def open(self, request: Message) -> Message:
        """Say where this is, keep to this device's share of the node's CPUs, and open the slot."""
        ray: Any = importlib.import_module("ray")
        node = ray.get_runtime_context().get_node_id()
        here = next((_gpus(one) for one in ray.nodes() if one["NodeID"] == node), 0)
        mine = sorted(int(one) for one in ray.get_gpu_ids() if str(one).isdecimal())
        if mine and here > 1 and mine[-1] < here and hasattr(os, "sched_setaffinity"):
            shares = shared(usable(), [None] * here)
            cpus = [cpu for number in mine for cpu in shares[number]]
            if cpus:
                os.sched_setaffinity(0, cpus)
        return {
            "node": f"{socket.gethostname()} {node[:6]}",
            "device": gpu_words(mine),
            "pid": os.getpid(),
            "answer": self._server.answer(request, _nobody),
        }

    def answer(self, request: Message, number: int) -> Message:
        """Answer a request of `bench.slot`, the actor's `number`-th."""
        self._spoken.begin(number)
        try:
            return self._server.answer(request, self._spoken.say)
        finally:
            self._spoken.end()

    def heard(self, number: int) -> list[Message]:
        """What is said during that request, beside it; empty once nothing more will be."""
        return self._spoken.heard(number)


def _nobody(_message: Message) -> None:
    """Nobody listens while a slot is opened."""


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
    _looked_s: float = 0.0
    _request: Any = None

    def __enter__(self) -> "RayPool":
        given = self.commission
        request = open_request(given.plan, given.device, given.threads, given.only, given.together)
        self._request = self.ray.put(request)
        self._recruit()
        if not self._actors and all(kind.count is None for kind in self.kinds):
            self.__exit__(None, None, None)
            raise PoolError(
                f"no node of the Ray cluster has {_many(given.together)}: add nodes that have, or "
                "give --device cpu"
            )
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
        """Kinds that were asked for by name and have not come."""
        return tuple(k.name for k in self.kinds if k.name and k.name not in self._joined)

    def may_grow(self) -> bool:
        """Actors that wait for their place, and nodes that may come (back)."""
        return True

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
        if self._failures >= _MOST_FAILURES:
            raise PoolError(f"{self._failures} actors in a row died before they joined: {reason}")
        self._told.append(Said(text=f"an actor died before it joined: {reason}"))

    def _kill(self, actor: _Actor) -> None:
        for call in [call for call, owner in self._calls.items() if owner is actor]:
            del self._calls[call]
        for call in [call for call, (owner, _) in self._listening.items() if owner is actor]:
            del self._listening[call]
        with contextlib.suppress(Exception):  # it is dead, or Ray is
            self.ray.kill(actor.handle)

    def _recruit(self) -> None:
        """Have an actor for each device that is wanted and not there."""
        if time.monotonic() - self._looked_s < _LOOK_AGAIN_S:
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
            present = sum(_gpus(node) // together for node in nodes)
            wanted = (kind.count or present) - self._released[kind.name]
            for _ in range(have, wanted):
                wishes: dict[str, Any] = {"num_gpus": together}
                if kind.name is not None:
                    wishes["resources"] = {_resource(kind.name, nodes): 0.001}
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


def gpu_words(numbers: Sequence[int]) -> str:
    """`gpu 3`, `gpus 0+1`; `cpus` without one."""
    if not numbers:
        return "cpus"
    return f"gpu{'s' if len(numbers) > 1 else ''} {'+'.join(map(str, numbers))}"


def _many(together: int) -> str:
    return "a GPU" if together == 1 else f"{together} GPUs"


def _gpus(node: Any) -> int:
    return int(node["Resources"].get("GPU", 0))


def _resource(name: str, nodes: list[Any]) -> str:
    """The cluster's own name for a kind: a custom resource, or Ray's for an accelerator type."""
    there = {resource for node in nodes for resource in node["Resources"]}
    for candidate in (name, f"accelerator_type:{name}"):
        for resource in sorted(there):
            if resource.lower() == candidate.lower():
                return resource
    return f"accelerator_type:{name.upper()}"


def _first_line(failure: BaseException) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {lines[0] if lines else 'no more is known'}"


def _require_listener(address: str | None) -> None:
    """Ask before Ray does, which goes on asking for minutes. Other forms than host:port pass."""
    host, _, port = (address or "").rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTENER_S).close()
    except OSError as failure:
        raise PoolError(
            f"no Ray cluster at {address}: {failure}; `ray status --address {address}` on a node "
            "of the cluster says whether it runs, without --address one is started here"
        ) from failure


def pool(commission: Commission, progress: Progress) -> RayPool:
    """Join a cluster, or start one on this machine.

    Raises:
        PoolError: Ray is not installed, or the cluster cannot be reached.
    """
    wanted = kinds(commission.options.get("gpus"), commission.together)
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise PoolError("Ray is not installed: pip install 'attnbench[ray]'") from error
    address = commission.options.get("address")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    path = os.pathsep.join(one for one in (_ROOT, os.environ.get("PYTHONPATH")) if one)
    words = "starting Ray on this machine" if address is None else f"joining Ray at {address}"
    progress.note(words)
    _require_listener(address)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if address is None else None,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    except (ConnectionError, RuntimeError, ValueError) as failure:
        raise PoolError(f"no Ray cluster at {address or 'this machine'}: {failure}") from failure
    return RayPool(ray, commission, wanted)


EXECUTOR = Executor(
    name="ray",
    title="the GPUs of a Ray cluster",
    pool=pool,
    options=(
        Option(name="address", help="Ray cluster, host:port or ray://... (default: start one)."),
        Option(
            name="gpus",
            help="kinds of GPU and how many of each, such as h100:4,a100:8, by accelerator type or "
            "custom resource (default: all).",
        ),
    ),
)
