"""Slurm's own commands: submit, look, cancel. Nothing here knows what the jobs do."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_COMMANDS = ("sbatch", "squeue", "scancel")
_CALL_S = 120.0
_ALIVE = ("RUNNING", "SUSPENDED", "STOPPED", "CONFIGURING", "SIGNALING", "STAGE_OUT")
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
_ENDING = ("COMPLETING",)
_HELD = "requeued_held"
"""Part of the reason of a task that a node could not launch: it waits until somebody looks."""
_WIDTH = 100
_FIELDS = ("JobArrayID", "Name", "State", "RestartCnt", "NodeList", "Reason")


class SlurmError(RuntimeError):
    """A command of Slurm failed; the message has its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of an array, as Slurm sees it."""

    key: str
    """`<array job>_<index>`."""
    job_name: str
    state: str
    """Slurm's long word, e.g. `RUNNING`."""
    restarts: int
    """How often it was put back into the queue."""
    node: str
    """Empty while it waits."""
    reason: str

    @property
    def runs(self) -> bool:
        """Its process may be alive."""
        return self.state in _ALIVE

    @property
    def ended(self) -> bool:
        """It will never run again by itself."""
        return self.state not in (*_ALIVE, *_WAITING, *_ENDING) or _HELD in self.reason


def missing() -> tuple[str, ...]:
    """Return which of Slurm's commands are not here."""
    return tuple(name for name in _COMMANDS if shutil.which(name) is None)


def submit(arguments: Sequence[str], script: Path) -> str:
    """Submit `script` and return the job's id.

    Raises:
        SlurmError: it was refused.
    """
    return _called("sbatch", "--parsable", *arguments, str(script)).partition(";")[0].strip()


def cancel(job_names: Sequence[str]) -> None:
    """Cancel every job of these names.

    Raises:
        SlurmError: Slurm does not answer.
    """
    for name in job_names:
        _called("scancel", "--quiet", f"--name={name}")


class Look:
    """A question to Slurm about jobs, asked beside other work: a busy controller can be slow."""

    def __init__(self, job_names: Sequence[str]) -> None:
        """Ask."""
        fields = ",".join(f"{name}:{_WIDTH}" for name in _FIELDS)
        self.begun = time.monotonic()
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the question
        self._process = subprocess.Popen(
            [
                "squeue", "--noheader", "--array", "--all", "--states=all",
                f"--name={','.join(job_names)}", f"--Format={fields}",
            ],
            stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.PIPE,
        )  # fmt: skip

    def answered(self) -> bool:
        """Whether `tasks` can be called; a question without an answer is given up after a while."""
        if self._process.poll() is not None:
            return True
        if time.monotonic() - self.begun > _CALL_S:
            self._process.kill()
            self._process.wait()
            return True
        return False

    def tasks(self) -> tuple[Task, ...]:
        """Return every task that Slurm still remembers, ended ones for some minutes.

        Raises:
            SlurmError: Slurm did not answer; nothing is known.
        """
        _, errors = self._process.communicate()
        self._out.seek(0)
        lines = self._out.read().decode(errors="replace").splitlines()
        self._out.close()
        if self._process.returncode:
            words = errors.decode(errors="replace").strip()
            raise SlurmError(f"squeue: {words or f'status {self._process.returncode}'}")
        return tuple(_task(line) for line in lines if line.strip())

    def close(self) -> None:
        """Give the question up."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._out.close()


def look(job_names: Sequence[str]) -> tuple[Task, ...]:
    """Ask and wait for the answer.

    Raises:
        SlurmError: Slurm did not answer.
    """
    question = Look(job_names)
    while not question.answered():
        time.sleep(0.02)
    return question.tasks()


def _task(line: str) -> Task:
    """Columns have a fixed width: no character is safe as a separator in a reason."""
    columns = [line[at : at + _WIDTH].strip() for at in range(0, _WIDTH * len(_FIELDS), _WIDTH)]
    key, name, state, restarts, node, reason = columns
    return Task(
        key=key,
        job_name=name,
        state=state,
        restarts=int(restarts),
        node=node,
        reason=reason.replace(" ", "_"),
    )


def _variables() -> dict[str, str]:
    """Without those of a job that this process may run in: sbatch would take them for wishes."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLURM_") or name in kept
    }


def _called(command: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [command, *arguments],
            env=_variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_CALL_S,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise SlurmError(f"{command}: {failure}") from None
    if done.returncode:
        raise SlurmError(f"{command}: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout
