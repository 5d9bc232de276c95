"""The arrays of a campaign: how many tasks are wanted, submitted, alive; who is replaced."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.slurm import jobs
from bench.slurm.jobs import SlurmError, Task
from bench.slurm.options import Kind, Wishes, script
from bench.whole_file import whole_file

MOST_FAILURES = 3
"""Tasks of one kind that make nothing, in a row, before no more are started."""
_PREFIX = "attnbench"


class Arrays:
    """The jobs whose names say that they belong to one folder."""

    def __init__(self, folder: Path, wanted: Wishes, note: Callable[[str], None]) -> None:
        """Want what was asked for; nothing is submitted yet."""
        self._folder = folder
        self._wishes = wanted
        self._note = note
        self._wanted = Counter({kind.name: kind.count for kind in wanted.kinds})
        self._failures: Counter[str] = Counter()
        self._shunned: dict[str, set[str]] = {}
        self._alive: dict[str, Task] = {}
        self._settled: set[tuple[str, int]] = set()
        self.submitted_s = float("-inf")
        """Monotonic time of the last submission: an older answer of Slurm does not show it."""

    @property
    def job_names(self) -> tuple[str, ...]:
        """One a kind, those of kinds that an earlier driver asked for included."""
        kinds = {kind.name for kind in self._wishes.kinds}
        kinds |= {path.stem for path in self._folder.glob("*.sh")}
        return tuple(self._job_name(kind) for kind in sorted(kinds))

    @property
    def owed(self) -> tuple[str, ...]:
        """Kinds of which tasks are wanted."""
        return tuple(kind for kind, count in self._wanted.items() if count > 0)

    def worked(self, kind: str) -> None:
        """A task of this kind is fit for work."""
        self._failures[kind] = 0

    def over(self, kind: str) -> None:
        """No task of this kind is needed any more."""
        self._wanted[kind] = 0

    def refused(self, kind: str, node: str) -> None:
        """A task cannot take part because of its node: the next one shall be elsewhere."""
        self._shunned.setdefault(kind, set()).add(node)
        self._failed(kind, f"{node} is left out from now on")

    def forget(self, tasks: Iterable[Task]) -> None:
        """What has ended so far is no business of this driver."""
        self._settled |= {(task.key, task.restarts) for task in tasks if task.ended}

    def review(self, tasks: tuple[Task, ...], released: set[str], employed: set[str]) -> None:
        """Take note of tasks that ended.

        Args:
            tasks: all that Slurm knows.
            released: keys of tasks that were told to end.
            employed: keys of tasks that this driver asked for something.
        """
        known = {task.key for task in tasks}
        vanished = [task for key, task in self._alive.items() if key not in known]
        self._alive = {task.key: task for task in tasks if not task.ended}
        for task in (*vanished, *(task for task in tasks if task.ended)):
            start = (task.key, task.restarts)
            kind = task.job_name.removeprefix(self._job_name(""))
            if start in self._settled:
                continue
            self._settled.add(start)
            if task.key in released or self._wanted[kind] == 0:
                continue
            if task.state == "CANCELLED":
                self._wanted[kind] -= 1
                self._note(f"task {task.key} was cancelled and is not replaced")
            elif task.key not in employed:
                self._failed(kind, f"task {task.key}: {task.state}{self._last_words(task.key)}")

    def replace(self, tasks: Iterable[Task]) -> None:
        """Submit what is short of the tasks that are wanted."""
        alive = Counter(task.job_name for task in tasks if not task.ended)
        for kind in self._wishes.kinds:
            short = self._wanted[kind.name] - alive[self._job_name(kind.name)]
            if short > 0:
                try:
                    self.submit(kind, short)
                except SlurmError as failure:
                    self._failed(kind.name, str(failure))

    def submit(self, kind: Kind, count: int) -> None:
        """Submit an array of `count` tasks.

        Raises:
            SlurmError: it was refused.
        """
        file = self._folder / f"{kind.name}.sh"
        with whole_file(file) as written:
            written.write(script(self._wishes, self._folder, kind.name).encode())
        shunned = sorted(self._shunned.get(kind.name, ()))
        job = jobs.submit(
            [
                f"--job-name={self._job_name(kind.name)}",
                f"--array=0-{count - 1}",
                f"--output={self._folder}/logs/%A_%a.log",
                *self._wishes.arguments,
                *kind.request,
                *([f"--exclude={','.join(shunned)}"] if shunned else []),
            ],
            file,
        )
        self.submitted_s = time.monotonic()
        self._note(f"submitted array {job}: {count} x {kind.name}")

    def _job_name(self, kind: str) -> str:
        return f"{_PREFIX}-{self._folder.name}-{kind}"

    def _failed(self, kind: str, words: str) -> None:
        self._failures[kind] += 1
        self._note(words)
        if self._failures[kind] == MOST_FAILURES:
            self._wanted[kind] = 0
            self._note(f"{kind}: {MOST_FAILURES} tasks in a row made nothing; no more are started")

    def _last_words(self, task: str) -> str:
        log = self._folder / "logs" / f"{task}.log"
        try:
            lines = log.read_text(errors="replace").split("\n")
        except OSError:
            return f", and there is no log in {log.parent}: do the nodes see that folder?"
        return "".join(f"\n  {line}" for line in lines[-6:] if line)
