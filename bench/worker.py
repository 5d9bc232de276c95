"""A process that makes visits for a launcher: its requests, its log, its end.

Prints nothing. Requests and answers are JSON lines on a private channel; standard output and error
belong to the code under test and go to a log that the launcher reads.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from attention_impls import registry
from bench import settings
from bench.environment import environment
from bench.hardware import ceilings
from bench.metric import metrics
from bench.model import Case, Protocol, from_json, to_json
from bench.parent import end_with
from bench.visit import visit


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


def main(channel: int, log: int, parent: int) -> NoReturn:
    """Serve the requests on `channel` until it closes, then leave without any teardown."""
    code = 1
    try:
        _settle(log)
        end_with(parent)
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
    """Send output to the log, read nothing, leave no core file."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


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


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
