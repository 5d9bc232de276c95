"""One device of this node, served by messages: what every executor of several devices runs there.

    python -m bench.slot PARENT

reads requests from standard input and writes answers to standard output, one JSON object a line;
it ends when its input does, or PARENT, the process that started it. That one chooses the device
(`CUDA_VISIBLE_DEVICES`) and the CPUs (affinity). Other ways to carry the messages use `SlotServer`
directly.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attention_impls import registry
from bench import load
from bench.description import header_of
from bench.executor import Aside, Event, Joined, Limits, Lost, Made, Slot, Trained
from bench.gpu_health import complaint
from bench.journal_lines import Header
from bench.launch import Workers
from bench.model import Case, Ceiling, DeviceKind, Outcome, Plan, Protocol, from_json, to_json
from bench.parent import end_with
from bench.schedule import Turn
from bench.task import Epoch
from bench.visitor import Visitor

Message = dict[str, Any]
"""A JSON object."""
Tell = Callable[[Message], None]
"""Carries a message to the driver before the answer is there."""


def open_request(
    plan: Plan, device: DeviceKind, threads: int | None, only: str | None, together: int = 1
) -> Message:
    """Ask a slot to read its machine and get ready; the first request. `joined` answers it."""
    return {
        "kind": "open",
        "plan": to_json(plan),
        "device": device,
        "threads": threads,
        "only": only,
        "together": together,
        "variant_files": [str(path) for path in registry.outside_files()],
    }


def visit_request(turn: Turn, checkpoints: Path) -> Message:
    """Ask for one visit; `made` or `aside` answers it, `trained` may come before."""
    return {
        "kind": "visit",
        "case": to_json(turn.case),
        "round": turn.visit.round,
        "group": turn.group,
        "checkpoints": str(checkpoints),
    }


def limits_request() -> Message:
    """Ask for the limits of the device again; `limits` answers it."""
    return {"kind": "limits"}


def event_of(slot: Slot, message: Message) -> Event:
    """Return what a slot's message means.

    Raises:
        ValueError: no such message.
    """
    match message["kind"]:
        case "joined":
            return Joined(slot=slot, header=from_json(Header, message["header"]))
        case "made":
            return Made(
                slot=slot,
                outcome=from_json(Outcome, message["outcome"]),
                wall_s=message["wall_s"],
                measured_s=message["measured_s"],
                foreign_load=message["foreign_load"],
            )
        case "aside":
            return Aside(slot=slot, reason=message["reason"])
        case "limits":
            ceilings = tuple(from_json(Ceiling, one) for one in message["ceilings"])
            return Limits(slot=slot, ceilings=ceilings)
        case "trained":
            return Trained(slot=slot, epoch=Epoch(**message["epoch"]))
        case "failed":
            return Lost(slot=slot, reason=message["reason"])
        case kind:
            raise ValueError(f"a slot said {kind!r}, which is none of its messages")


class SlotServer:
    """Answers requests with visits on the device of this process."""

    def __init__(self, health: Callable[[int], str | None] = complaint) -> None:
        """Make one; `health` says what is wrong with the first so many GPUs, if anything."""
        self._health = health
        self._visitor: Visitor | None = None
        self._protocol: Protocol | None = None
        self._device: DeviceKind = "cpu"
        self._threads = 1
        self._workers: Workers | None = None
        self._tell: Tell = _nobody

    def answer(self, request: Message, tell: Tell) -> Message:
        """Return the answer to `request`; failures of the slot itself are answers too."""
        self._tell = tell
        try:
            match request["kind"]:
                case "open":
                    return self._open(request)
                case "visit":
                    return self._visit(request)
                case "limits":
                    return self._limits()
                case kind:
                    raise ValueError(f"a slot cannot {kind!r}")
        except Exception as failure:  # noqa: BLE001 - the driver must hear of it, whatever it is
            self.close()
            return {"kind": "failed", "reason": f"{type(failure).__name__}: {failure}"}

    def close(self) -> None:
        """End every worker."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _open(self, request: Message) -> Message:
        for path in request["variant_files"]:
            registry.add_variant_file(Path(path))
        plan: Plan = from_json(Plan, request["plan"])
        self._device, self._protocol = request["device"], plan.protocol
        self._threads = request["threads"] or load.own_cpus()
        together = request["together"]
        self._workers = Workers(self._device, self._threads, None, self._trained, together)
        self._visitor = Visitor(self._workers, time.monotonic()).__enter__()
        header = header_of(plan, request["only"], *self._workers.machine())
        return {"kind": "joined", "header": to_json(header)}

    def _visit(self, request: Message) -> Message:
        if self._visitor is None or self._protocol is None or self._workers is None:
            raise ValueError("a slot makes visits once it is open")
        if self._device == "cuda" and not self._workers.busy:
            reason = self._health(self._workers.together)
            if reason is not None:
                return {"kind": "aside", "reason": reason}
        folder = Path(request["checkpoints"])
        visited = self._visitor.visit(
            from_json(Case, request["case"]),
            request["round"],
            request["group"],
            self._protocol,
            # a node that does not see the run's folder trains without checkpoints
            folder if folder.parent.is_dir() else None,
        )
        return {
            "kind": "made",
            "outcome": to_json(visited.outcome),
            "wall_s": visited.wall_s,
            "measured_s": visited.measured_s,
            "foreign_load": visited.foreign_load,
        }

    def _limits(self) -> Message:
        if self._workers is None:
            raise ValueError("a slot measures its limits once it is open")
        _, ceilings = self._workers.machine()
        return {"kind": "limits", "ceilings": [to_json(one) for one in ceilings]}

    def _trained(self, epoch: Epoch) -> None:
        self._tell({"kind": "trained", "epoch": asdict(epoch)})


def _nobody(_message: Message) -> None:
    """Nobody listens."""


def main(parent: int) -> None:
    """Serve standard input until it ends."""
    end_with(parent)
    # what anything prints must not come between the messages
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def tell(message: Message) -> None:
        answers.write(json.dumps(message).encode() + b"\n")

    server = SlotServer()
    try:
        for line in sys.stdin.buffer:
            tell(server.answer(json.loads(line), tell))
    finally:
        server.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
