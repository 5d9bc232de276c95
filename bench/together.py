"""Trains one network on several devices of this machine: a process each, DistributedDataParallel.

The worker of the visit starts the processes and waits for them; it takes no part itself, so that a
process that dies or hangs in a collective never takes the answer with it. What the first failing
process says is the outcome, and the others are killed.
"""

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from attention_impls import registry
from bench.model import (
    Case,
    Crashed,
    DeviceKind,
    Outcome,
    Plan,
    TaskRun,
    from_json,
    to_json,
)
from bench.task import Epoch, TaskResult, task

_FAREWELL_S = 2.0
"""After the first failure, so long the others may say theirs."""


class EndedError(Exception):
    """A training that ended otherwise than well."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.kind)
        self.outcome = outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """One training of several processes."""

    case: Case
    device: DeviceKind
    processes: int
    threads: int
    """Of all of them."""
    checkpoint: Path | None
    """File that holds the state after every epoch."""
    limit_bytes: int | None
    """Memory limit in force, for what is said when it is reached."""
    report: Callable[[Epoch], None] | None
    """Told after every epoch."""


def refuse_unfit(plan: Plan, together: int) -> None:
    """Refuse a plan of which not every case can use several devices.

    Raises:
        ValueError: says which case, and what to do.
    """
    if together == 1:
        return
    for case in (*plan.cases, *plan.noise_pairs):
        if not isinstance(case.stimulus, TaskRun):
            raise ValueError(
                f"--together {together}: {case.id} uses one device and the others would idle; "
                "trainings alone use several: --plan accuracy, or --only"
            )
        batch = task(case.stimulus.task).training.batch
        if batch % together:
            raise ValueError(
                f"--together {together}: the batch of task {case.stimulus.task}, {batch}, cannot "
                "be shared equally"
            )


def learn_together(joint: Joint) -> TaskResult:
    """Train, and return what the first process found in the test set.

    Raises:
        EndedError: a process failed, diverged or died; has the outcome.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attnbench-")))
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, processes)
        for rank in range(joint.processes):
            processes.append(_start(joint, rank, folder / "meeting"))
        return _result(processes, joint)


def _start(joint: Joint, rank: int, place: Path) -> "subprocess.Popen[bytes]":
    threads = max(1, joint.threads // joint.processes)
    request: dict[str, Any] = {
        "case": to_json(joint.case),
        "device": joint.device,
        "rank": rank,
        "processes": joint.processes,
        "threads": threads,
        "place": str(place),
        "checkpoint": None if joint.checkpoint is None else str(joint.checkpoint),
        "limit_bytes": joint.limit_bytes,
        "variant_files": [str(path) for path in registry.outside_files()],
    }
    count = str(threads)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.together_process", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
    )
    # it is dead: noticed when its answer is read
    with suppress(BrokenPipeError), _pipe(process.stdin) as requests:
        requests.write(json.dumps(request).encode() + b"\n")
    return process


def _result(processes: "list[subprocess.Popen[bytes]]", joint: Joint) -> TaskResult:
    buffers = dict.fromkeys(range(len(processes)), b"")
    result: TaskResult | None = None
    failures: list[tuple[float, Outcome]] = []
    deadline: float | None = None
    with selectors.DefaultSelector() as selector:
        for rank, process in enumerate(processes):
            selector.register(_pipe(process.stdout), selectors.EVENT_READ, rank)
        while selector.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            for key, _ in selector.select(left):
                rank = key.data
                data = os.read(key.fd, 1 << 16)
                *lines, buffers[rank] = (buffers[rank] + data).split(b"\n")
                for message in map(json.loads, lines):
                    match message["kind"]:
                        case "epoch" if joint.report is not None:
                            joint.report(Epoch(**message["epoch"]))
                        case "result":
                            result = from_json(TaskResult, message["result"])
                        case "failed":
                            outcome: Outcome = from_json(Outcome, message["outcome"])
                            failures.append((message["at_s"], outcome))
                        case _:
                            pass
                if not data:
                    selector.unregister(key.fileobj)
                    status = processes[rank].wait()
                    if status:
                        failures.append(_death(rank, len(processes), status))
            if failures and deadline is None:
                # others fail because one did, and their words may come before its end is seen
                deadline = time.monotonic() + _FAREWELL_S
    if failures:
        raise EndedError(min(failures, key=lambda one: one[0])[1])
    if result is None:
        raise EndedError(Crashed(exit_code=0, reason="no process said what the training gave"))
    return result


def _death(rank: int, processes: int, status: int) -> tuple[float, Outcome]:
    """When and how a process ended that did not say why.

    Somebody killed it, or memory ran out: that comes first. Any other death may follow from a
    failure elsewhere.
    """
    how = f"ended by signal {-status}" if status < 0 else f"exited with status {status}"
    when = -math.inf if status == -signal.SIGKILL else math.inf
    return when, Crashed(exit_code=status, reason=f"process {rank + 1} of {processes} {how}")


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        _pipe(process.stdout).close()


def _pipe(end: IO[bytes] | None) -> IO[bytes]:
    if end is None:
        raise TypeError("a process with pipes has none")
    return end
