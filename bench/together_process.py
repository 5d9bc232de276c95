"""One of the processes that train a network together; started by `bench.together`.

    python -m bench.together_process PARENT

reads one request from standard input and writes JSON lines to standard output: epochs and the
result from the first process, a failure from any.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from attention_impls import registry
from bench import settings
from bench.endings import outcome_of
from bench.learning import assist, learn
from bench.model import Case, TaskRun, adapter, from_json, to_json
from bench.parent import end_with
from bench.process_group import Group
from bench.subject import subject_of
from bench.task import Assignment, Epoch, TaskResult, task

Message = dict[str, Any]


def trained(request: Message, tell: Callable[[Message], None]) -> None:
    """Train as the request says.

    Raises:
        Whatever the training raises.
    """
    for path in request["variant_files"]:
        registry.add_variant_file(Path(path))
    device, rank, processes = request["device"], request["rank"], request["processes"]
    settings.apply(device, request["threads"])
    if device == "cuda" and torch.cuda.device_count() < processes:
        raise RuntimeError(f"{torch.cuda.device_count()} GPUs are visible, {processes} are needed")
    case: Case = from_json(Case, request["case"])
    if not isinstance(case.stimulus, TaskRun):
        raise TypeError(f"{case.id}: not a task")
    subject = subject_of(case, device)
    group = Group.meet(rank, processes, device, Path(request["place"]))
    kept = request["checkpoint"]
    assignment = Assignment(
        spec=subject.spec,
        options=subject.options,
        seed=case.stimulus.seed,
        device=device,
        compiled=case.backend == "compile",
        checkpoint=None if kept is None else Path(kept),
        report=lambda epoch: tell(_epoch(epoch)),
        group=group,
    )
    if rank:
        assist(task(case.stimulus.task), assignment)
    else:
        result = learn(task(case.stimulus.task), assignment).result
        tell({"kind": "result", "result": adapter(TaskResult).dump_python(result, mode="json")})
    group.leave()


def _epoch(epoch: Epoch) -> Message:
    return {"kind": "epoch", "epoch": asdict(epoch)}


def main(parent: int) -> None:
    """Serve one request."""
    end_with(parent)
    # what anything prints must not come between the messages
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def tell(message: Message) -> None:
        answers.write(json.dumps(message).encode() + b"\n")

    request: Message = json.loads(sys.stdin.buffer.readline())
    try:
        trained(request, tell)
    except Exception as failure:  # noqa: BLE001 - the code under test may raise anything
        outcome = outcome_of(failure, request["limit_bytes"])
        # said before this process leaves, and so before the others notice
        tell({"kind": "failed", "at_s": time.monotonic(), "outcome": to_json(outcome)})
    sys.stdout.flush()
    sys.stderr.flush()
    # without farewells, which could wait for processes that are gone
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
