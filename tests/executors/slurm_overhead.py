"""What Slurm and the messages cost a visit: tasks that answer at once, so that all else is cost.

    PYTHONPATH=.:site:tests python tests/executors/slurm_overhead.py

starts a Slurm of its own, sends visits through one task and then many visits through several, with
the sweep, the journal and its fsync as in every run. Starting the array is told apart.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import tiny
from executors import slurm_cluster
from executors.slurm_cluster import SlurmCluster

from bench.executor import Commission
from bench.executors import slurm
from bench.journal import Journal
from bench.journal_lines import Header
from bench.model import Case, Plan, Protocol, from_json, to_json
from bench.schedule import visits
from bench.sweep import Sweep

_ALLOWED_S = 0.1


class Instant:
    """A slot that makes every visit in no time."""

    def __init__(self, header: Header) -> None:
        self._header = to_json(header)

    def answer(self, request, tell):
        match request["kind"]:
            case "open":
                return {"kind": "joined", "header": self._header}
            case "limits":
                return {"kind": "limits", "ceilings": self._header["ceilings"]}
            case _:
                outcome = {"kind": "ok", "measurements": [], "executed": "nothing"}
                return {
                    "kind": "made", "outcome": outcome, "wall_s": 0.0, "measured_s": 0.0,
                    "foreign_load": None,
                }  # fmt: skip

    def close(self):
        pass


class Silent:
    """Tells nobody."""

    def started(self, case, done, total):
        pass

    def finished(self, case, outcome):
        pass

    def trained(self, epoch):
        pass

    def slots(self, doing):
        pass

    def note(self, text):
        pass


def plan_of(count: int) -> Plan:
    """A plan of about so many visits, no case waiting for another's size."""
    small = tiny.case()
    cases: list[Case] = [
        replace(small, stimulus=replace(small.stimulus, heads=number + 1))
        for number in range(count)
    ]
    return tiny.plan(*cases, protocol=Protocol(rounds=1, anchor_every=1000))


def timed(folder: Path, tasks: int, count: int, interpreter: Path) -> tuple[float, float, int]:
    """Return seconds until the first slot, seconds of all visits after that, and how many."""
    plan = plan_of(count)
    folder.mkdir()
    header = tiny.header(plan)
    (folder / "header.json").write_text(json.dumps(to_json(header)))
    os.environ["ATTNBENCH_TEST_HEADER"] = str(folder / "header.json")
    joined: list[float] = []

    def journal_of(found: Header) -> Journal:
        joined.append(time.monotonic())
        return Journal.create(folder / "journal.jsonl", found)

    options = {
        "tasks": str(tasks), "venv": str(interpreter), "poll": "2", "shared": str(folder / "s"),
    }  # fmt: skip
    commission = Commission(plan=plan, device="cpu", threads=1, only=None, options=options)
    begun = time.monotonic()
    with slurm.EXECUTOR.pool(commission, Silent()) as pool:
        (journal,) = Sweep(plan, "cpu", journal_of, Silent(), limits_again=False).go(pool)
        ended = time.monotonic()
    journal.close()
    made = len(visits(plan, "cpu"))
    assert len(journal.entries) == made
    return joined[0] - begun, ended - joined[0], made


def main() -> int:
    """Measure and say it."""
    if reason := slurm_cluster.missing():
        sys.stdout.write(f"cannot run here: {reason}\n")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        task = Path(__file__).resolve()
        python.write_text(f'#!/bin/bash\nshift 2\nexec "{sys.executable}" "{task}" "$@"\n')
        python.chmod(0o755)
        path = [str(task.parents[2]), str(task.parents[1])]
        os.environ["PYTHONPATH"] = os.pathsep.join(path)
        with SlurmCluster(folder / "slurm") as cluster:
            os.environ.update(cluster.variables)
            start_s, one_s, made = timed(folder / "one", 1, 300, folder / "venv")
            each_s = one_s / made
            sys.stdout.write(f"array start-up {start_s:.1f} s (apart)\n")
            sys.stdout.write(
                f"1 task: {made} visits in {one_s:.1f} s, {each_s * 1e3:.1f} ms each\n"
            )
            _, many_s, made = timed(folder / "many", 4, 10_000, folder / "venv")
            sys.stdout.write(
                f"4 tasks: {made} visits in {many_s:.1f} s, {many_s / made * 1e3:.1f} ms each\n"
            )
    return 0 if each_s <= _ALLOWED_S else 1


def serve(arguments: list[str]) -> None:
    """Be the task."""
    from bench.slurm import task as slurm_task

    header = from_json(Header, json.loads(Path(os.environ["ATTNBENCH_TEST_HEADER"]).read_text()))
    slurm_task.SlotServer = lambda: Instant(header)
    slurm_task.main(arguments, os.environ)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        serve(sys.argv[1:])
    else:
        sys.exit(main())
