"""Runs the visits on the tasks of Slurm arrays: one task a device, messages through shared files.

Slurm starts, requeues and ends the tasks; each gets its device ready by itself and then makes what
it is asked for. The driver may die and come back: the tasks wait for it, and `--resume` finds them.
"""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

from bench.executor import (
    Commission,
    Event,
    Executor,
    Joined,
    Made,
    PoolError,
    Progress,
    Said,
    Slot,
)
from bench.model import Visit
from bench.schedule import Turn
from bench.slot import limits_request, open_request, visit_request
from bench.slurm import jobs
from bench.slurm.arrays import Arrays
from bench.slurm.jobs import Look, SlurmError, Task
from bench.slurm.lives import Life, Lives
from bench.slurm.mailbox import Message
from bench.slurm.options import OPTIONS, Wishes, wishes
from bench.slurm.task import BEAT, LIVES, ORDER
from bench.whole_file import whole_file

_READ_S = 0.005
_BEAT_S = 5.0
_FAREWELL_S = 20.0


class Tasks:
    """The devices of one run: a folder for messages, and the arrays that serve it."""

    def __init__(self, folder: Path, wanted: Wishes, progress: Progress) -> None:
        """Begin with what is in `folder`; nothing is submitted yet."""
        self._folder = folder
        self._wishes = wanted
        self._progress = progress
        self._told: deque[Event] = deque()
        self._lives = Lives(folder, self._told)
        self._arrays = Arrays(folder, wanted, self._say)
        self._started: set[str] = set()
        self._look: Look | None = None
        self._known_at_look: tuple[Life, ...] = ()
        self._looked_s = self._beaten_s = float("-inf")
        self._beats = 0
        self._silent = False

    def begin(self) -> None:
        """Submit everything.

        Raises:
            SlurmError: it was refused.
        """
        self._beat()
        for kind in self._wishes.kinds:
            self._arrays.submit(kind, kind.count)

    def go_on(self) -> None:
        """Take over the tasks of a driver that is gone, and submit what is short.

        Raises:
            SlurmError: Slurm does not answer.
        """
        self._beat()
        tasks = jobs.look(self._arrays.job_names)
        self._arrays.forget(tasks)
        running = {(task.key, task.restarts) for task in tasks if task.runs}
        self._lives.take_over(running)
        waiting = sum(not task.ended for task in tasks) - len(running)
        self._say(f"found {len(running)} running and {waiting} waiting tasks of the earlier driver")
        self._arrays.replace(tasks)

    def end(self, *, finished: bool) -> None:
        """Cancel what still waits or runs; a finished run needs its folder no more.

        Raises:
            SlurmError: Slurm does not answer.
        """
        if self._look is not None:
            self._look.close()
        names = self._arrays.job_names
        jobs.cancel(names)
        deadline = time.monotonic() + _FAREWELL_S
        while finished and time.monotonic() < deadline:
            if all(task.ended for task in jobs.look(names)):
                shutil.rmtree(self._folder, ignore_errors=True)
                return
            time.sleep(0.1)

    # What the sweep asks --------------------------------------------------------------------------

    def visit(self, slot: Slot, turn: Turn, checkpoints: Path) -> None:
        """Write the request into the task's file, or answer with what lies ready."""
        life = self._lives.of(slot)
        self._arrays.worked(life.kind)
        ready = self._lives.left_over(life, turn.visit)
        if ready is None:
            self._ask(life, visit_request(turn, checkpoints), turn.visit)
            return
        life.employed = True
        made = Made(
            slot=slot,
            outcome=ready.outcome,
            wall_s=ready.wall_s,
            measured_s=ready.measured_s,
            foreign_load=ready.foreign_load,
            by=ready.slot.words,
        )
        self._told.append(made)

    def measure(self, slot: Slot) -> None:
        """Write the request into the task's file."""
        self._ask(self._lives.of(slot), limits_request(), None)

    def release(self, slot: Slot) -> None:
        """End the task. One that never had anything to do is refused; another node may not be."""
        life = self._lives.of(slot)
        life.released = True
        with contextlib.suppress(OSError):
            life.outbox.send({"kind": "release"})
        if life.employed:
            self._arrays.over(life.kind)
        else:
            self._arrays.refused(life.kind, slot.node)

    def wait(self, timeout_s: float) -> tuple[Event, ...]:
        """Read what the tasks wrote; look for new ones; ask Slurm now and then who is gone."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._beat()
            self._lives.read()
            self._ask_slurm()
            if self._told or time.monotonic() >= deadline:
                break
            time.sleep(_READ_S)
        found = tuple(self._told)
        self._told.clear()
        self._started |= {self._lives.of(e.slot).kind for e in found if isinstance(e, Joined)}
        return found

    def awaited(self) -> tuple[str, ...]:
        """Kinds of which no task has got ready so far."""
        return tuple(kind for kind in self._arrays.owed if kind not in self._started)

    def may_grow(self) -> bool:
        """Whether Slurm still owes tasks."""
        return bool(self._arrays.owed)

    def _ask(self, life: Life, request: Message, visit: Visit | None) -> None:
        try:
            self._lives.ask(life, request, visit)
        except OSError as failure:
            raise PoolError(f"{self._folder} cannot be written: {failure.strerror}") from failure

    # What Slurm says ------------------------------------------------------------------------------

    def _ask_slurm(self) -> None:
        if self._look is None:
            if time.monotonic() - self._looked_s < self._wishes.poll_s:
                return
            self._known_at_look = tuple(life for life in self._lives if not life.gone)
            self._look = Look(self._arrays.job_names)
        if not self._look.answered():
            return
        question, self._look = self._look, None
        self._looked_s = time.monotonic()
        try:
            tasks = question.tasks()
        except SlurmError as failure:
            if not self._silent:
                self._say(f"going on without Slurm's word on who is gone: {failure}")
            self._silent = True
            return
        self._silent = False
        self._judge(tasks)
        released = {life.start[0] for life in self._lives if life.released}
        employed = {life.start[0] for life in self._lives if life.employed}
        self._arrays.review(tasks, released, employed)
        if question.begun > self._arrays.submitted_s:
            self._arrays.replace(tasks)

    def _judge(self, tasks: tuple[Task, ...]) -> None:
        """Find the lives whose task is not what it was."""
        by_key = {task.key: task for task in tasks}
        for life in self._known_at_look:
            key, restarts = life.start
            task = by_key.get(key)
            if life.gone or (task and task.runs and task.restarts == restarts):
                continue
            self._lives.hear(life)
            if not life.gone:
                self._lives.lose(life, _fate(task, restarts))

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten_s > _BEAT_S:
            self._beaten_s = now
            self._beats += 1
            with whole_file(self._folder / BEAT) as file:
                file.write(f"{os.getpid()} {self._beats} {time.time_ns()}".encode())

    def _say(self, text: str) -> None:
        self._told.append(Said(text=text))


def _fate(task: Task | None, restarts: int) -> str:
    """What Slurm says of a task that does not run any more."""
    if task is None:
        return "Slurm does not know its task any more"
    if task.restarts > restarts:
        return "Slurm put its task back into the queue"
    reason = f" ({task.reason.replace('_', ' ')})" if task.reason not in ("", "None") else ""
    return f"its task is {task.state.lower().replace('_', ' ')}{reason}"


@contextlib.contextmanager
def pool(commission: Commission, progress: Progress) -> Generator[Tasks]:
    """Find Slurm, and the tasks of an earlier driver or new ones."""
    wanted = wishes(commission.options, commission.device, commission.together)
    if absent := jobs.missing():
        raise PoolError(
            f"{', '.join(absent)}: not found; start this on a node where jobs are submitted"
        )
    request = open_request(
        commission.plan,
        commission.device,
        commission.threads,
        commission.only,
        commission.together,
    )
    earlier = _earlier(wanted.shared, request)
    if earlier is not None and not commission.resume:
        _tell_of_waiting(earlier, wanted, progress)
        earlier = None
    folder = earlier or _made(wanted.shared)
    order = {"open": request, "patience_s": wanted.patience_s}
    with whole_file(folder / ORDER) as file:
        file.write(json.dumps(order).encode())
    tasks = Tasks(folder, wanted, progress)
    finished = False
    try:
        if earlier is None:
            tasks.begin()
        else:
            tasks.go_on()
        yield tasks
        finished = True
    except SlurmError as failure:
        raise PoolError(str(failure)) from None
    finally:
        try:
            tasks.end(finished=finished)
        except SlurmError as failure:
            progress.note(f"tasks may still run, look with squeue: {failure}")


def _tell_of_waiting(folder: Path, wanted: Wishes, progress: Progress) -> None:
    """Say that tasks of the same order hold devices already."""
    names = Arrays(folder, wanted, progress.note).job_names
    with contextlib.suppress(SlurmError):
        alive = sum(not task.ended for task in jobs.look(names))
        if alive:
            progress.note(
                f"{alive} tasks of an earlier run of this plan wait for --resume; "
                f"scancel --name={','.join(names)} ends them"
            )


def _made(shared: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dt%H%M%Sz")
    folder = shared / f"{stamp}-{secrets.token_hex(3)}"
    (folder / LIVES).mkdir(parents=True)
    (folder / "logs").mkdir()
    return folder


def _earlier(shared: Path, request: Message) -> Path | None:
    """The newest folder of the same order."""
    for path in sorted(shared.glob(f"*/{ORDER}"), reverse=True):
        if json.loads(path.read_text())["open"] == request:
            return path.parent
    return None


EXECUTOR = Executor(
    name="slurm",
    title="tasks of Slurm arrays, one a device",
    pool=pool,
    options=OPTIONS,
)
