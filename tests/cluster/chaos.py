"""Kill a worker, a node or the driver of a Ray cluster at random moments; compare the records.

    python tests/cluster/chaos.py --kills 50 --seed 1

runs one small plan again and again on a cluster of two nodes on this machine until so many were
killed, and compares every finished run with an undisturbed local one: case ids, deterministic
metrics and the curves of a training bit for bit, every visit exactly once. Four of five kills wait
until the victim makes a visit; the fifth comes at any moment, when slots may be starting.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
for _path in (TESTS.parent, TESTS, TESTS / "cluster"):
    if str(_path) not in sys.path:
        sys.path.insert(0, str(_path))

import driven  # noqa: E402
import psutil  # noqa: E402

PATIENCE_S = 900.0
_KILLS_A_RUN = 8
_DURING = 0.8
"""Share of the kills that wait for a visit."""


class Nodes:
    """A Ray cluster in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "ray_nodes.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address = self._answer()["address"]
        self._number = 0
        self._raylets: dict[str, int] = {}

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *_error: object) -> None:
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        for process in [psutil.Process(self._process.pid)] if self._process.poll() is None else []:
            process.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=5)
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def names(self) -> list[str]:
        return list(self._raylets)

    def add(self, gpus: int = 1, **resources: float) -> str:
        self._number += 1
        name = f"n{self._number}"
        answer = self._ask(kind="add", name=name, gpus=gpus, resources=resources)
        self._raylets[name] = answer["pid"]
        return name

    def end(self, name: str) -> None:
        """As when the machine loses power."""
        del self._raylets[name]
        self._ask(kind="end", name=name)

    def of(self, actor: psutil.Process) -> str | None:
        """The node of an actor that lives."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = actor.ppid()
            return next((name for name, pid in self._raylets.items() if pid == parent), None)
        return None

    def processes(self) -> list[psutil.Process]:
        """All of the cluster."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def actors(self) -> list[psutil.Process]:
        """Processes that serve a slot."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith("ray::Served"):
                    found.append(process)
        return found

    def at_work(self) -> list[psutil.Process]:
        """Actors with a worker, the oldest first: a young one may be measuring its machine."""
        found = []
        for actor in self.actors():
            with contextlib.suppress(psutil.NoSuchProcess):
                for server in actor.children():
                    if "bench.forkserver" in server.cmdline() and server.children():
                        found.append((actor.create_time(), actor.pid, actor))
        return [actor for *_, actor in sorted(found)]

    def _ask(self, **wish: object) -> dict[str, object]:
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert answer["done"] == wish["kind"]
        return answer

    def _answer(self) -> dict[str, object]:
        line = self._process.stdout.readline()
        assert line, "the cluster ended"
        return json.loads(line)


class Said:
    """What the drivers of one folder have said."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "said.txt"
        self._from = 0

    def anew(self) -> None:
        """A driver is about to start: what was under way is over."""
        self._from = len(self._lines())

    def begun(self) -> int:
        return sum(line.startswith("visit ") for line in self._lines())

    def made_again(self) -> int:
        return sum(line.endswith(" is made again") for line in self._lines())

    def under_way(self) -> int:
        """Visits that the driver waits for."""
        lines = self._lines()[self._from :]
        begun = sum(line.startswith("visit ") for line in lines)
        over = sum(line.startswith("ended ") or line.endswith(" is made again") for line in lines)
        return begun - over

    def _lines(self) -> list[str]:
        text = self._path.read_text() if self._path.exists() else ""
        return text.rpartition("\n")[0].split("\n")


class Disturbance:
    """One run of the plan, and what is killed meanwhile."""

    def __init__(self, folder: Path, nodes: Nodes, chance: random.Random, pause_s: float) -> None:
        self._folder, self._nodes, self._chance, self._pause_s = folder, nodes, chance, pause_s
        self.said = Said(folder)
        self._driver = self._start(resume=False)
        self.killed: Counter[str] = Counter()
        self.drivers_during_a_visit = 0
        self._plan_the_next()

    @property
    def during_a_visit(self) -> int:
        """Kills that took a visit with them."""
        return self.drivers_during_a_visit + self.said.made_again()

    def go(self, victims: list[str]) -> None:
        """Run the plan to its end and kill `victims` meanwhile, as many as there is time for."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            if self._driver.poll() is not None:
                if self._driver.returncode == 0:
                    return
                assert self._driver.returncode == -signal.SIGKILL, self._words()
                self._driver = self._start(resume=driven.can_resume(self._folder))
            if victims and self._due() and self._kill(victims[0]):
                self.killed[victims.pop(0)] += 1
                self._plan_the_next()
            assert time.monotonic() < deadline, self._words()
            time.sleep(0.02)

    def _start(self, *, resume: bool) -> "subprocess.Popen[bytes]":
        self.said.anew()
        options = {"address": self._nodes.address, "gpus": "fake:2"}
        return driven.start(self._folder, "ray", resume=resume, **options)

    def _plan_the_next(self) -> None:
        self._waits = self._chance.random() < _DURING
        self._at = time.monotonic() + self._pause_s * self._chance.random()
        self._begun = self.said.begun() + self._chance.randint(1, 6)

    def _due(self) -> bool:
        if not self._waits:
            return time.monotonic() > self._at
        if self.said.begun() < self._begun or not self._nodes.at_work():
            return False
        time.sleep(0.3 * self._chance.random())
        return self.said.under_way() > 0

    def _kill(self, victim: str) -> bool:
        """Kill one; return whether there was one to kill."""
        busy = self._nodes.at_work()
        match victim:
            case "worker":
                actors = busy[:1] if self._waits else self._nodes.actors()
                if not actors:
                    return False
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._chance.choice(actors).kill()
            case "node":
                name = self._nodes.of(busy[0]) if self._waits and busy else None
                self._nodes.end(name or self._chance.choice(self._nodes.names))
                self._nodes.add(fake=1)
            case "driver":
                if self._driver.poll() is not None:
                    return False
                os.kill(self._driver.pid, signal.SIGKILL)
                self._driver.wait()
                self.drivers_during_a_visit += self.said.under_way() > 0
            case _:
                raise ValueError(victim)
        return True

    def _words(self) -> str:
        return (self._folder / "said.txt").read_text()


def disturbed(
    folder: Path, nodes: Nodes, chance: random.Random, victims: list[str], pause_s: float
) -> Disturbance:
    """Run the plan and kill `victims` meanwhile; those that were killed are taken off the list."""
    run = Disturbance(folder, nodes, chance, pause_s)
    run.go(victims)
    return run


def compared(folder: Path, expected: dict[str, dict[str, object]]) -> None:
    """Refuse a run that differs from the undisturbed one."""
    assert driven.exact(folder) == expected, folder
    (journal,) = driven.journals(folder)
    driven.each_visit_once(journal)


def undisturbed(folder: Path) -> dict[str, dict[str, object]]:
    """Run the plan on this machine without Ray."""
    driver = driven.start(folder, "local", resume=False)
    assert driver.wait(PATIENCE_S) == 0, (folder / "said.txt").read_text()
    (journal,) = driven.journals(folder)
    driven.each_visit_once(journal)
    return driven.exact(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=25.0, help="most seconds between two")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    victims = [("worker", "node", "driver")[n % 3] for n in range(given.kills)]
    chance.shuffle(victims)
    total, during, runs = Counter(), 0, 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place, Nodes() as nodes:
        expected = undisturbed(Path(place) / "local")
        nodes.add(fake=1)
        nodes.add(fake=1)
        while victims:
            folder = Path(place) / f"run{runs}"
            due, victims = victims[:_KILLS_A_RUN], victims[_KILLS_A_RUN:]
            run = disturbed(folder, nodes, chance, due, given.pause)
            compared(folder, expected)
            victims = due + victims
            total += run.killed
            during += run.during_a_visit
            runs += 1
            driven.say(
                f"{time.monotonic() - began:.0f} s: {runs} runs equal to the undisturbed one, "
                f"killed {dict(total)}, {during} of {sum(total.values())} during a visit"
            )
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
