"""Kills tasks, fork servers, nodes and drivers of runs on Slurm at random moments and compares.

    PYTHONPATH=.:site:tests python tests/executors/slurm_chaos.py --kills 50 --seed 0

starts a Slurm of its own, needs root and `apt-get install slurm-wlm munge`, and prints what it did.
The machine is measured once; tasks take the rest as given, so that fifty kills take minutes.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from executors import slurm_cluster
from executors.slurm_cluster import SlurmCluster
from executors.slurm_runs import Runs, quick_interpreter

from bench.model import to_json
from bench.submission import read_results

_NODES = ("n1", "n2", "n3")
_KILLS_A_RUN = 5
_WITHIN_S = 900.0
_DURING = 0.75
"""Share of kills that wait for a visit to begin; the others come while tasks start."""


def known_machine(quiet: Runs, folder: Path) -> dict[str, str]:
    """Write what the quiet run read of this machine; return the variable that names the file."""
    (stored,), _ = read_results(quiet.folder / "results")
    machine = folder / "machine.json"
    ceilings = [to_json(ceiling) for ceiling in stored.run.ceilings]
    environment = to_json(stored.run.environment)
    machine.write_text(json.dumps({"environment": environment, "ceilings": ceilings}))
    return {"ATTNBENCH_TEST_MACHINE": str(machine)}


class Chaos:
    """One run, and what is done to it."""

    def __init__(self, cluster: SlurmCluster, runs: Runs, given: dict[str, str], seed: int) -> None:
        self._cluster = cluster
        self._runs = runs
        self._given = given
        self._random = random.Random(seed)
        self._driver = runs.drive("slurm", given)
        self.done: Counter[str] = Counter()
        self._plan_the_next(4.0, 8.0)

    def go(self, kills: int) -> None:
        """Kill so often, then let it end."""
        deadline = time.monotonic() + _WITHIN_S
        while self._driver.process.poll() != 0:
            assert time.monotonic() < deadline, self._driver.log.read_text()
            if self._driver.process.poll() is not None:
                # all tasks were cancelled: a person would go on, too
                self._revive()
            self._cluster.hurry()
            if sum(self.done.values()) < kills and self._due():
                kind, act = self._random.choice(self._acts())
                if act():
                    self.done[kind] += 1
                    self._plan_the_next(0.5, 3.0)
            time.sleep(0.02)

    def _plan_the_next(self, least_s: float, most_s: float) -> None:
        self._waits = self._random.random() < _DURING
        self._at = time.monotonic() + self._random.uniform(least_s, most_s)
        self._from = self._begun() + self._random.randint(1, 3)

    def _due(self) -> bool:
        if not self._waits:
            return time.monotonic() > self._at
        if self._begun() < self._from:
            return False
        time.sleep(self._random.uniform(0.0, 0.3))
        return True

    def _begun(self) -> int:
        return len(self._driver.said("started"))

    def _acts(self) -> tuple[tuple[str, Callable[[], bool]], ...]:
        return (
            ("driver", self._kill_driver),
            ("task", self._kill_task),
            ("fork server", self._kill_server),
            ("scancel", self._cancel),
            ("requeue", self._requeue),
            ("node down", self._node_down),
            ("node dead", self._node_dead),
        )

    def _revive(self) -> None:
        resume = bool(list((self._runs.folder / ".attnbench").glob("*.jsonl")))
        self._driver = self._runs.drive("slurm", self._given, resume=resume)
        self._from = 1  # its log begins anew

    def _kill_driver(self) -> bool:
        if not self._driver.said("finished"):
            return False
        self._driver.kill()
        time.sleep(self._random.uniform(0.0, 2.0))
        self._revive()
        return True

    def _kill_task(self) -> bool:
        pids = self._pids("slurm_quick_task.py")
        return bool(pids) and _killed(self._random.choice(pids))

    def _kill_server(self) -> bool:
        """What workers are forked from; a worker's own death would be the case's, an outcome."""
        tasks = set(self._pids("slurm_quick_task.py"))
        pids = [pid for pid in self._pids("bench.forkserver") if _parent(pid) in tasks]
        return bool(pids) and _killed(self._random.choice(pids))

    def _cancel(self) -> bool:
        return self._with_task("scancel")

    def _requeue(self) -> bool:
        return self._with_task("scontrol", "requeue")

    def _with_task(self, *command: str) -> bool:
        tasks = sorted(self._cluster.running())
        if not tasks:
            return False
        self._cluster.call(*command, self._random.choice(tasks), check=False)
        return True

    def _node_down(self) -> bool:
        node = self._random.choice(_NODES)
        self._cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=chaos")
        return True

    def _node_dead(self) -> bool:
        node = self._random.choice(_NODES)
        self._cluster.kill_node(node)
        self._cluster.start_node(node)
        return True

    def _pids(self, word: str) -> list[int]:
        return [pid for pid in self._cluster.job_processes() if word in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _killed(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def main() -> int:
    """Run until so many kills were made."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if reason := slurm_cluster.missing():
        sys.stdout.write(f"cannot run here: {reason}\n")
        return 2
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quiet = Runs(folder / "quiet")
        quiet.drive("local").end()
        (expected,) = quiet.exact().values()
        with SlurmCluster(folder / "slurm") as cluster:
            variables = {**cluster.variables, **known_machine(quiet, folder)}
            given = {
                "tasks": "red:2,blue:1", "sbatch": "--gres=gpu:1", "poll": "0.5",
                "venv": str(quick_interpreter(folder / "venv")),
            }  # fmt: skip
            number = again = 0
            while sum(total.values()) < asked.kills:
                number += 1
                runs = Runs(folder / f"run-{number}", variables)
                chaos = Chaos(cluster, runs, given, asked.seed + number)
                chaos.go(min(_KILLS_A_RUN, asked.kills - sum(total.values())))
                total += chaos.done
                again += runs.lost_attempts()
                found = runs.exact()
                wrong = runs.visits_twice_or_missing()
                same = all(one == expected for one in found.values()) and bool(found)
                sys.stdout.write(
                    f"run {number}: {dict(chaos.done)}, {runs.lost_attempts()} visits made again, "
                    f"{len(found)} run folders, {'equal' if same else 'DIFFERENT'}"
                    f"{'' if not wrong else f', WRONG {wrong}'}\n"
                )
                sys.stdout.flush()
                if wrong or not same:
                    _explain(runs, expected)
                    return 1
                cluster.settle()
    sys.stdout.write(
        f"{sum(total.values())} kills in {number} runs, all equal, {again} visits made again: "
        f"{dict(total)}\n"
    )
    return 0


def _explain(runs: Runs, expected: dict[str, object]) -> None:
    for id_, found in runs.exact().items():
        for case in sorted({*found, *expected}):
            if found.get(case) != expected.get(case):
                sys.stdout.write(f"{id_} {case}\n  {found.get(case)}\n  {expected.get(case)}\n")
    for log in sorted(runs.folder.glob("driver-*.log")):
        sys.stdout.write(f"{log.name}\n{log.read_text()}\n")


if __name__ == "__main__":
    sys.exit(main())
