"""Kill a worker, a node or the driver of a Ray cluster at random moments; compare the records.

    python tests/cluster/chaos.py --kills 50 --seed 1

runs one small plan again and again on a cluster of two nodes on this machine until so many were
killed, and compares every finished run with an undisturbed local one: case ids and deterministic
metrics bit for bit, every visit exactly once.
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

PATIENCE_S = 400.0


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
        self.names: list[str] = []

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

    def add(self, gpus: int = 1, **resources: float) -> str:
        self._number += 1
        name = f"n{self._number}"
        self._ask(kind="add", name=name, gpus=gpus, resources=resources)
        self.names.append(name)
        return name

    def end(self, name: str) -> None:
        """As when the machine loses power."""
        self.names.remove(name)
        self._ask(kind="end", name=name)

    def actors(self) -> list[psutil.Process]:
        """Processes that serve a slot."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith("ray::Served"):
                    found.append(process)
        return found

    def _ask(self, **wish: object) -> None:
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        assert self._answer()["done"] == wish["kind"]

    def _answer(self) -> dict[str, object]:
        line = self._process.stdout.readline()
        assert line, "the cluster ended"
        return json.loads(line)


def killed(victim: str, nodes: Nodes, driver: "subprocess.Popen[bytes]", chance: random.Random):
    """Kill one; return whether there was one to kill."""
    match victim:
        case "worker":
            actors = nodes.actors()
            if not actors:
                return False
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(actors).kill()
        case "node":
            nodes.end(chance.choice(nodes.names))
            nodes.add(fake=1)
        case "driver":
            if driver.poll() is not None:
                return False
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()
        case _:
            raise ValueError(victim)
    return True


class _Due:
    """When the next is killed: at a random moment, or at a random visit, by the toss of a coin.

    A slot takes many times longer to begin than these visits take to be made, so that kills by the
    clock alone would hardly ever meet a visit.
    """

    def __init__(self, folder: Path, chance: random.Random, pause_s: float) -> None:
        self._said = folder / "said.txt"
        self._at = time.monotonic() + pause_s * chance.random()
        self._begun = self._visits() + chance.randint(1, 8) if chance.random() < 0.7 else None
        self._pause_s = 0.3 * chance.random()

    def now(self) -> bool:
        if self._begun is None:
            return time.monotonic() > self._at
        if self._visits() < self._begun:
            return False
        time.sleep(self._pause_s)
        return True

    def _visits(self) -> int:
        return self._said.read_bytes().count(b"\nvisit ") if self._said.exists() else 0


def disturbed(
    folder: Path, nodes: Nodes, chance: random.Random, victims: list[str], pause_s: float
) -> list[str]:
    """Run the plan and kill `victims` meanwhile; return those that were killed."""
    done: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    driver = driven.start(folder, "ray", resume=False, address=nodes.address, gpus="fake:2")
    due = _Due(folder, chance, pause_s)
    while True:
        if driver.poll() is not None:
            if driver.returncode == 0:
                return done
            assert driver.returncode == -signal.SIGKILL, (folder / "said.txt").read_text()
            again = driven.can_resume(folder)
            driver = driven.start(folder, "ray", resume=again, address=nodes.address, gpus="fake:2")
        if victims and due.now():
            if killed(victims[0], nodes, driver, chance):
                done.append(victims.pop(0))
            due = _Due(folder, chance, pause_s)
        assert time.monotonic() < deadline, (folder / "said.txt").read_text()
        time.sleep(0.05)


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
    total, lost, runs = Counter(), 0, 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place, Nodes() as nodes:
        expected = undisturbed(Path(place) / "local")
        nodes.add(fake=1)
        nodes.add(fake=1)
        while sum(total.values()) < given.kills:
            folder = Path(place) / f"run{runs}"
            total.update(disturbed(folder, nodes, chance, victims, given.pause))
            compared(folder, expected)
            lost += len(driven.attempts(driven.journals(folder)[0]))
            runs += 1
            driven.say(
                f"{time.monotonic() - began:.0f} s: {runs} runs equal to the undisturbed one, "
                f"killed {dict(total)}, {lost} visits made again"
            )
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
