"""One visit of one case in this process: look up, build, check, measure, answer.

Prints nothing. Requests and answers are JSON lines on a private channel; standard output and error
belong to the code under test and go to a log that the launcher reads.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import platform
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from attention_impls import registry
from bench import allocator, failures, settings
from bench.accuracy import task_result
from bench.endings import outcome_of
from bench.environment import environment
from bench.frontier import largest_batch
from bench.gate import FLOP_LIMIT_FIRST_ROUND, FLOP_LIMIT_LATER, Passed, admit, confirm
from bench.hardware import ceilings
from bench.memory import NotMeasurable
from bench.metric import Metric, metrics
from bench.model import (
    Case,
    Measurement,
    Ok,
    Outcome,
    Protocol,
    TaskRun,
    Timed,
    Unavailable,
    from_json,
    to_json,
)
from bench.subject import Call, CannotRun, Subject, shape_of, subject_of
from bench.task import Epoch
from bench.timing import KEPT

_PR_SET_PDEATHSIG = 1


@dataclass(slots=True, kw_only=True)
class Visited:
    """What a visit gave."""

    outcome: Outcome
    measured_s: float
    """Time inside measured calls."""
    spent: dict[str, float]
    """Seconds of each stage of the visit."""


def visit(
    case: Case,
    round_: int,
    protocol: Protocol,
    device: Any,
    *,
    checkpoints: Path | None = None,
    report: Callable[[Epoch], None] | None = None,
    together: int = 1,
) -> Visited:
    """Run one visit; every ending of the code under test that leaves us alive is an outcome.

    Args:
        case: what runs.
        round_: round of the visit.
        protocol: how it is measured.
        device: `cpu` or `cuda`.
        checkpoints: folder for the states of unfinished trainings; None: none are kept.
        report: told after every epoch of a training.
        together: devices that train a network together.
    """
    clock = _Stages()
    subject: Subject | None = None
    try:
        subject = subject_of(case, device)
        subject.checkpoints, subject.report, subject.together = checkpoints, report, together
        subject.memory_limit_bytes = protocol.memory_limit_bytes
        outcome = _measure(subject, round_, protocol, clock)
    except Exception as failure:  # noqa: BLE001 - the code under test may raise anything
        outcome = outcome_of(failure, protocol.memory_limit_bytes)
    return Visited(
        outcome=outcome,
        measured_s=0.0 if subject is None else subject.measured_s,
        spent=clock.seconds,
    )


def preload() -> None:
    """Import once, in the fork server, what workers would import each: variants, metrics, counters.

    Computes nothing, because a thread that exists here would be missing in the workers.
    """
    importlib.import_module("torch._dynamo")
    for name in registry.names():
        with contextlib.suppress(Exception):  # its own case will say what is wrong with it
            registry.load(name)
    metrics()
    for mode, device in ((FlopCounterMode(display=False), "meta"), (FakeTensorMode(), "cpu")):
        with mode, torch.no_grad():
            layer = nn.Linear(1, 1, device=device)
            functional_call(layer, {}, (torch.empty(1, 1, device=device),))


def main(channel: int, log: int) -> NoReturn:
    """Serve the requests on `channel` until it closes, then leave without any teardown."""
    code = 1
    try:
        _settle(log)
        _serve(channel)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - the log is all that can be said from here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _settle(log: int) -> None:
    """Send output to the log, leave no core file, and die with the process that started us."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _serve(channel: int) -> None:
    with os.fdopen(channel, "r+b", buffering=0) as stream:
        lines = iter(stream.readline, b"")
        for line in lines:
            request = json.loads(line)
            for path in request["variant_files"]:
                registry.add_variant_file(Path(path))
            settings.apply(request["device"], request["threads"])

            def tell(message: dict[str, Any]) -> None:
                stream.write(json.dumps(message).encode() + b"\n")

            tell(_answer(request, tell))


def _answer(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return the answer; `tell` sends what is worth knowing before it."""
    device, threads = request["device"], request["threads"]
    if request["kind"] == "machine":
        return {
            "environment": to_json(environment(device, threads, request["together"])),
            "ceilings": [to_json(ceiling) for ceiling in ceilings(device)],
        }
    protocol = from_json(Protocol, request["protocol"])
    if device == "cpu" and protocol.memory_limit_bytes is not None:
        _limit_address_space(protocol.memory_limit_bytes)
    folder = request["checkpoints"]
    visited = visit(
        from_json(Case, request["case"]),
        request["round"],
        protocol,
        device,
        checkpoints=None if folder is None else Path(folder),
        report=lambda epoch: tell({"epoch": asdict(epoch)}),
        together=request["together"],
    )
    return {
        "outcome": to_json(visited.outcome),
        "measured_s": visited.measured_s,
        "spent": visited.spent,
        "reusable": device != "cuda" or tidied(),
    }


def tidied() -> bool:
    """Free what a visit left on the GPU; False: the next visit needs another process.

    After a capture that failed torch's allocator waits for its end and refuses to free anything;
    after a kernel that faulted every call fails.
    """
    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def _limit_address_space(limit_bytes: int) -> None:
    """Allow so much beyond what is mapped now; torch's threads have their stacks already."""
    torch.ones(1 << 17).add_(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + limit_bytes, hard))


def _measure(subject: Subject, round_: int, protocol: Protocol, clock: "_Stages") -> Outcome:
    stimulus = subject.case.stimulus
    batch, executed, passed = None, "reference", None
    if subject.recipe is not None and isinstance(stimulus, Timed):
        recipe = subject.recipe
        one = shape_of(stimulus, 1)
        if reasons := recipe.refusals(one):
            raise CannotRun(reasons)
        batch = stimulus.batch or largest_batch(recipe, one, protocol.memory_limit_bytes)
        shape = shape_of(stimulus, batch)
        executed = recipe.executed(shape)
        clock.start("build")
        subject.prepared = recipe.call(shape)
        clock.start("gate")
        passed = admit(
            subject.prepared,
            flop_limit=FLOP_LIMIT_LATER if round_ else FLOP_LIMIT_FIRST_ROUND,
        )
        subject.checked = passed.checked
        subject.memo["passed"] = passed
    elif subject.recipe is not None and subject.recipe.backend is not None:
        executed = subject.recipe.backend.title
    measurements = _measurements(subject, round_, protocol, clock)
    clock.start("confirm")
    if subject.prepared is not None and passed is not None:
        _confirm(subject, subject.prepared, passed)
    clock.stop()
    training = task_result(subject).training if isinstance(stimulus, TaskRun) else None
    if training is not None and subject.together > 1:
        executed += f", {subject.together} processes together (DistributedDataParallel)"
    return Ok(
        measurements=measurements,
        executed=executed,
        batch=batch,
        checked=subject.checked,
        training=training,
    )


def _measurements(
    subject: Subject, round_: int, protocol: Protocol, clock: "_Stages"
) -> tuple[Measurement, ...]:
    wanted = [
        metric
        for metric in metrics()
        if metric.applies(subject.case, subject.device) and (metric.every_round or not round_)
    ]
    found: dict[str, Measurement] = {}
    for policy in ("default", "keeping"):
        due = [metric for metric in wanted if metric.allocator == policy]
        if not due:
            continue
        if policy == "keeping" and subject.device == "cpu":
            if allocator.uncontrolled() is None:
                allocator.keep_pages()
            subject.allocator = policy
        for metric in due:
            clock.start(metric.name)
            found[metric.name] = _one(metric, subject, protocol)
    return tuple(found[name] for name in sorted(found))


def _one(metric: Metric, subject: Subject, protocol: Protocol) -> Measurement:
    """Measure; what cannot vary and fails says why, what is timed and fails ends the visit."""
    try:
        return metric.measure(subject, protocol)
    except NotMeasurable as why:
        return Unavailable(metric=metric.name, reasons=(failures.published(str(why)),))
    except Exception as failure:
        if metric.every_round or subject.prepared is None or failures.is_out_of_memory(failure):
            raise
        reason = failures.published(f"{type(failure).__name__}: {failure}")
        return Unavailable(metric=metric.name, reasons=(reason,))


def _confirm(subject: Subject, call: Call, passed: Passed) -> None:
    for key in KEPT:
        if key in subject.memo:
            confirm(call, passed, subject.memo[key].kept)


class _Stages:
    """Names the seconds of each stage of a visit."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()
        self._name = "look_up"

    def start(self, name: str) -> None:
        """End the current stage and begin `name`."""
        self.stop()
        self._name = name

    def stop(self) -> None:
        """End the current stage."""
        now = time.perf_counter()
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._began
        self._began = now


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
