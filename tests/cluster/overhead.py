"""What an engine costs a visit, beyond the visit itself.

    python tests/cluster/overhead.py --visits 500

sends visits that take no time through this process, through a process's pipes, and through a Ray
actor, with the same sweep and the same journal, and prints milliseconds a visit. Then it schedules
10,000 cases on 64 simulated slots.

    python tests/cluster/overhead.py --standard

makes the standard plan on 1, 8 and 64 simulated GPUs, whose visits take an equal share of the
plan's expected minutes, and prints how long that took there beside the bounds of bench.forecast.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

TESTS = Path(__file__).parents[1]
for _path in (TESTS.parent, TESTS, TESTS / "cluster"):
    if str(_path) not in sys.path:
        sys.path.insert(0, str(_path))

import simulated  # noqa: E402
import tiny  # noqa: E402

from bench.devices import Device  # noqa: E402
from bench.executor import Commission, Slot  # noqa: E402
from bench.executors import local, ray  # noqa: E402
from bench.forecast import as_planned, forecast  # noqa: E402
from bench.journal import Journal  # noqa: E402
from bench.journal_lines import Header  # noqa: E402
from bench.model import Case, DeviceKind, Plan, from_json, to_json  # noqa: E402
from bench.plan import everything, load_plan  # noqa: E402
from bench.slot_process import SlotProcess  # noqa: E402
from bench.sweep import Sweep  # noqa: E402


class Instant:
    """Answers as a slot does, at once."""

    def __init__(self) -> None:
        self._header: Header | None = None

    def answer(self, request, tell):
        match request["kind"]:
            case "open":
                self._header = tiny.header(from_json(Plan, request["plan"]))
                return {"kind": "joined", "header": to_json(self._header)}
            case "visit":
                outcome = simulated.ok(from_json(Case, request["case"]), request["round"])
                return {"kind": "made", "outcome": to_json(outcome), "wall_s": 0.0,
                        "measured_s": 0.0, "foreign_load": None}  # fmt: skip
            case _:
                return {"kind": "limits", "ceilings": [to_json(c) for c in self._header.ceilings]}


class Served(ray.Served):
    """An actor that answers at once."""

    def __init__(self) -> None:
        super().__init__()
        self._server = Instant()


def plan_of(cases: int) -> Plan:
    """So many cases of many families, one round."""
    variants = ("softmax", "linear_relu", "linformer", "performer", "cosformer")
    made = [
        tiny.case(v, tokens, passes=passes, options={"number": number})
        for number in range(-(-cases // 40))
        for v in variants
        for tokens in (8, 16, 32, 64)
        for passes in ("forward", "forward_backward")
    ]
    return tiny.plan(*made[:cases], protocol=replace(tiny.PROTOCOL, rounds=1, anchor_every=25))


def swept(plan: Plan, opened, device: DeviceKind = "cpu") -> tuple[float, int]:
    """Sweep `plan` over an open pool; return seconds from the first visit, and visits."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.create(Path(folder) / "j.jsonl", tiny.header(plan))
        began: list[float] = []

        class Clocked(simulated.Told):
            def started(self, case, done, total):
                began.append(time.perf_counter())

        with journal:
            Sweep(plan, device, lambda _: journal, Clocked(), limits_again=False).go(opened)
            return time.perf_counter() - began[0], len(journal.entries)


@contextmanager
def pipes(plan: Plan):
    """One slot behind pipes."""
    device = Device(words="cpus", visible=None, cpus=())
    pool = local.Several(
        Commission(plan=plan, device="cpu", threads=1, only=None), (), simulated.Told()
    )
    with pool:
        slot = Slot(node="here", device=device.words)
        process = SlotProcess(slot, {}, (), command=(sys.executable, __file__, "--serve"))
        pool.add(process)
        process.ask(local.open_request(plan, "cpu", 1, None))
        yield pool


@contextmanager
def actor(plan: Plan):
    """One slot behind a Ray actor, on a Ray of this machine."""
    ray.Served = Served
    # Ray's workers unpickle by name what is not the main module
    folders = (TESTS, TESTS / "cluster", os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(str(one) for one in folders if one)
    commission = Commission(plan=plan, device="cpu", threads=1, only=None)
    with ray.pool(commission, simulated.Told()) as pool:
        yield pool


def serve() -> None:
    """Be the process behind the pipes."""
    server = Instant()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(server.answer(json.loads(line), None)).encode() + b"\n")
        sys.stdout.buffer.flush()


def standard() -> None:
    """The planner's table, and what a simulated cluster takes."""
    plan = load_plan("standard", everything("cuda"))
    seconds = as_planned(plan, "cuda")
    for count in (1, 8, 64):
        bounds = forecast(plan, "cuda", count, seconds)
        pool = simulated.SimulatedPool([tiny.header(plan)] * count, seconds=seconds)
        _, visits = swept(plan, pool, "cuda")
        say(
            f"standard plan, {visits} visits, {count} GPUs: {pool.clock / 60:.2f} minutes "
            f"simulated, forecast {bounds.least_s / 60:.2f} to {bounds.most_s / 60:.2f}"
        )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=500)
    parser.add_argument("--standard", action="store_true")
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    if given.standard:
        standard()
        return
    if given.serve:
        serve()
        return
    plan = plan_of(given.visits)
    alone = simulated.SimulatedPool([tiny.header(plan)])
    seconds, visits = swept(plan, alone)
    base_ms = 1e3 * seconds / visits
    say(f"this process: {base_ms:.2f} ms a visit ({visits} visits; dispatch and journal)")
    for name, opened in (("pipes", pipes), ("ray", actor)):
        with opened(plan) as pool:
            seconds, visits = swept(plan, pool)
        say(f"{name}: {1e3 * seconds / visits:.2f} ms a visit, "
            f"{1e3 * seconds / visits - base_ms:.2f} ms beyond this process")  # fmt: skip
    many = plan_of(10_000)
    began, cpu = time.perf_counter(), time.process_time()
    _, visits = swept(many, simulated.SimulatedPool([tiny.header(many)] * 64))
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    say(
        f"10,000 cases ({visits} visits) on 64 slots: scheduled and journalled in {wall_s:.1f} s, "
        f"{cpu_s:.1f} s of CPU"
    )


if __name__ == "__main__":
    main()
