"""What runs on the nodes of a Ray cluster: an actor that serves one slot on the GPU it was given.

An actor lives for the whole run, because a worker with torch imported is what a visit costs most.
"""

import importlib
import os
import socket
import threading
from typing import Any

from bench.devices import gpu_words, shared, usable
from bench.ray.cluster import gpus_of
from bench.slot import Message, SlotServer


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
    """The actor: it opens a slot on the device that Ray gave it, and serves it."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._server = SlotServer()
        self._spoken = Spoken()

    def open(self, request: Message) -> Message:
        """Say where this is, keep to this device's share of the node's CPUs, and open the slot."""
        ray: Any = importlib.import_module("ray")
        node = ray.get_runtime_context().get_node_id()
        here = next((gpus_of(one) for one in ray.nodes() if one["NodeID"] == node), 0)
        mine = sorted(int(one) for one in ray.get_gpu_ids() if str(one).isdecimal())
        if mine and here > 1 and mine[-1] < here and hasattr(os, "sched_setaffinity"):
            shares = shared(usable(), [None] * here)
            cpus = [cpu for number in mine for cpu in shares[number]]
            if cpus:
                os.sched_setaffinity(0, cpus)
        return {
            "node": f"{socket.gethostname()} {node[:6]}",
            "device": gpu_words([str(number) for number in mine]),
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
