"""What a task of a Slurm array runs: one device of its node, served through files.

    python -m bench.slurm.task FOLDER KIND

It reads what to measure from FOLDER, gets its device ready whether or not a driver lives, and
answers requests until it is released, or until it was idle for long and no driver gave a sign.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.devices import gpu_words
from bench.slot import SlotServer
from bench.slurm.mailbox import Inbox, Message, Outbox

ORDER = "order.json"
"""What the tasks of an array are for."""
BEAT = "driver"
"""A file whose contents change while a driver lives."""
LIVES = "tasks"
"""Folder with a folder for every start of every task."""
REQUESTS = "requests.jsonl"
ANSWERS = "answers.jsonl"
_SHORTEST_S = 0.005
_LONGEST_S = 0.5
_BEAT_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One start of one task."""

    task: str
    """`<array job>_<index>`, as Slurm lists it."""
    restarts: int
    """How often Slurm had put it back into the queue."""
    node: str
    gpus: tuple[str, ...]
    """As the node counts; empty without one."""

    @classmethod
    def here(cls, variables: Mapping[str, str]) -> "Life":
        """The life of this process, as Slurm describes it in the environment.

        Raises:
            ValueError: this is no task of an array.
        """
        try:
            job, index = variables["SLURM_ARRAY_JOB_ID"], variables["SLURM_ARRAY_TASK_ID"]
            node = variables["SLURMD_NODENAME"]
        except KeyError as absent:
            raise ValueError(f"not a task of a Slurm array: {absent} is not set") from None
        gpu = variables.get("SLURM_JOB_GPUS") or variables.get("CUDA_VISIBLE_DEVICES")
        return cls(
            task=f"{job}_{index}",
            restarts=int(variables.get("SLURM_RESTART_COUNT", "0")),
            node=node,
            gpus=tuple(gpu.split(",")) if gpu else (),
        )

    def device(self, together: int) -> str:
        """`gpu 3`, `gpus 0+1`; of a whole node's GPUs a task uses the first."""
        return gpu_words(self.gpus[:together])

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.task}.{self.restarts}"


def serve(folder: Path, kind: str, life: Life, server: SlotServer) -> None:
    """Answer requests until there will be no more."""
    order: Message = json.loads((folder / ORDER).read_text())
    own = folder / LIVES / life.name
    own.mkdir(parents=True)
    answers, requests = Outbox(own / ANSWERS), Inbox(own / REQUESTS)
    answers.send(
        {
            "kind": "hello", "task": life.task, "restarts": life.restarts, "node": life.node,
            "device": life.device(order["open"]["together"]), "of": kind,
        }
    )  # fmt: skip
    driver = _Driver(folder / BEAT)

    def answered(request: Message) -> bool:
        number = request["number"]
        found = server.answer(request, lambda said: answers.send({**said, "number": number}))
        answers.send({**found, "number": number})
        return found["kind"] != "failed"

    if not answered({**order["open"], "number": 0}):
        raise SystemExit(1)
    idle_since = time.monotonic()
    while max(idle_since, driver.seen()) + order["patience_s"] > time.monotonic():
        for request in requests.messages():
            if request["kind"] == "release":
                return
            if not answered(request):
                raise SystemExit(1)
            idle_since = time.monotonic()
        # the next request comes at once or not for long
        idle_s = time.monotonic() - idle_since
        time.sleep(min(_LONGEST_S, max(_SHORTEST_S, idle_s / 10)))


class _Driver:
    """The sign of life of whoever asks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._words = b""
        self._seen = self._looked = time.monotonic()

    def seen(self) -> float:
        """When it changed last, on this node's monotonic clock: clocks of nodes may differ."""
        now = time.monotonic()
        if now - self._looked > _BEAT_EVERY_S:
            self._looked = now
            words = self._path.read_bytes() if self._path.exists() else b""
            if words != self._words:
                self._words, self._seen = words, now
        return self._seen


def main(arguments: list[str], variables: Mapping[str, str]) -> None:
    """Serve the folder named in `arguments`."""
    folder, kind = arguments
    server = SlotServer()
    try:
        serve(Path(folder), kind, Life.here(variables), server)
    finally:
        server.close()


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
