"""Runs of the tests' plan: drivers that can be killed, and what must be the same in every run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from executors.slurm_plan import EXACT, PLAN

from bench.journal import Journal
from bench.model import Measured, Ok
from bench.schedule import visits
from bench.submission import read_results

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
_PATIENCE_S = 400.0


@dataclass(slots=True)
class Driver:
    """A driver in a process of its own; what it says goes into a file."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self, word: str) -> list[str]:
        """Return what it said so far in lines that begin with `word`."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(word)]

    def wait_until(self, happened, what: str) -> None:
        """Wait while it runs."""
        deadline = time.monotonic() + _PATIENCE_S
        while not happened():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{what} did not happen:\n{self.log.read_text()}")
            time.sleep(0.02)

    def finished(self, count: int) -> None:
        """Wait until it has written down that many visits."""
        self.wait_until(lambda: len(self.said("finished")) >= count, f"{count} visits")

    def kill(self) -> None:
        """Signal 9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(_PATIENCE_S)

    def end(self) -> None:
        """Wait for its end, which must be a good one."""
        self.process.wait(_PATIENCE_S)
        assert self.process.returncode == 0, self.log.read_text()


@dataclass(slots=True)
class Runs:
    """A folder with results of drivers that follow one another."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict[str, str])
    together: int = 1
    """Devices that train together; several run TRAININGS."""
    started: int = 0

    def drive(
        self, executor: str, options: dict[str, str] | None = None, *, resume: bool = False
    ) -> Driver:
        """Start a driver."""
        self.folder.mkdir(exist_ok=True)
        self.started += 1
        log = self.folder / f"driver-{self.started}.log"
        asked = {
            "folder": str(self.folder), "executor": executor, "resume": resume,
            "options": options or {}, "together": self.together,
        }  # fmt: skip
        path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "site")))
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "slurm_driver.py"), json.dumps(asked)],
                cwd=self.folder,
                env={**os.environ, **self.variables, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return Driver(process, log)

    def exact(self) -> dict[str, object]:
        """Return what must not differ, by hardware id: case ids, outcomes, exact metrics."""
        stored, refused = read_results(self.folder / "results")
        assert refused == ()
        assert len({one.run.environment.hardware_id for one in stored}) == len(stored)
        return {
            one.run.environment.hardware_id: {r.case.id: _exact(r.outcome) for r in one.records}
            for one in stored
        }

    def visits_twice_or_missing(self) -> list[str]:
        """Return what the journals of finished runs hold wrongly; empty where all is there once."""
        wrong: list[str] = []
        paths = sorted((self.folder / ".attnbench" / "finished").glob("*.jsonl"))
        for path in paths:
            with Journal.open(path) as journal:
                made = [entry.visit for entry in journal.entries]
                failed = {e.case_id for e in journal.entries if not isinstance(e.outcome, Ok)}
            due = [turn.visit for turn in visits(PLAN, "cpu")]
            wrong += [f"twice: {visit}" for visit in set(made) if made.count(visit) > 1]
            wrong += [f"unknown: {visit}" for visit in set(made) - set(due)]
            wrong += [
                f"missing: {visit}" for visit in set(due) - set(made) if visit.case_id not in failed
            ]
        return wrong if paths else ["no journal is finished"]

    def lost_attempts(self) -> int:
        """Return how many visits were begun and lost, as the journals say."""
        found = 0
        for path in (self.folder / ".attnbench" / "finished").glob("*.jsonl"):
            with Journal.open(path) as journal:
                found += sum(len(entry.attempts) for entry in journal.entries)
        return found


def _exact(outcome) -> object:
    if not isinstance(outcome, Ok):
        return outcome.kind
    return {
        m.metric: m.rounds
        for m in outcome.measurements
        if isinstance(m, Measured) and m.metric in EXACT
    }


def quick_interpreter(folder: Path) -> Path:
    """Make a virtual environment of one file, whose python runs the task of `slurm_quick_task`."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    task = HERE / "slurm_quick_task.py"
    python.write_text(f'#!/bin/bash\nshift 2\nexec "{sys.executable}" "{task}" "$@"\n')
    python.chmod(0o755)
    return folder
