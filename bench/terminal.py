"""What a person sees while a plan runs: what runs now, done/total, failures so far, time left."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from bench.model import Case, Frontier, Images, NotRun, Ok, Outcome, TaskRun, Unsupported, Workload
from bench.task import Epoch

if TYPE_CHECKING:
    from bench.evaluation import Counted
    from bench.executor import Slot

_LINE_EVERY_S = 15.0
"""Without a terminal (a log file, CI) one plain line is printed so often."""
_ROOMY = 100
"""Columns of a terminal from which a bar and the time that has passed leave room for the case."""
_EXPECTED = (Ok, Unsupported, NotRun)
"""Endings that are not failures: refused with a reason is an answer."""


def case_words(case: Case) -> str:
    """The case in a few words, as a person would say it."""
    match case.stimulus:
        case TaskRun():
            what = f"{case.stimulus.task}, seed {case.stimulus.seed}"
        case Frontier():
            what = f"largest N in {case.stimulus.memory_bytes // 2**20} MiB"
        case Images() as i:
            batch = "largest batch" if i.batch is None else f"batch {i.batch}"
            passes = "fwd+bwd" if i.passes == "forward_backward" else "fwd"
            what = f"{i.backbone}, {i.resolution_px} px, {batch}, {passes}, {i.dtype}"
        case Workload() as w:
            side = f"{w.resolution_px} px" if w.resolution_px else f"{w.tokens} tokens"
            batch = "largest batch" if w.batch is None else f"batch {w.batch}"
            passes = "fwd+bwd" if w.passes == "forward_backward" else "fwd"
            what = f"{side}, {batch}, {passes}, {w.dtype}, {case.level}"
    options = "".join(f" {name}={value}" for name, value in sorted(case.options.items()))
    return f"{case.variant}/{case.backend}{options}: {what}"


def minutes_words(minutes: float) -> str:
    """How long a plan takes: a guess, so one digit less than it could have."""
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:.0f} min" if minutes < 100 else f"about {minutes / 60:.0f} h"


def epoch_words(epoch: Epoch) -> str:
    """How far a training is, in a few words."""
    return (
        f"epoch {epoch.number}/{epoch.epochs}, loss {epoch.loss:.3f}, "
        f"accuracy {100 * epoch.accuracy:.1f} %"
    )


@contextmanager
def counting(console: Console, what: str) -> Generator["Callable[[Counted, int], None]"]:
    """Show how many pictures were seen and how many were right, on a terminal or line by line."""
    bar = Progress(
        TextColumn(what),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    last_s = time.monotonic()

    def report(counted: "Counted", total: int) -> None:
        nonlocal last_s
        seen = max(1, counted.pictures)
        words = f"top-1 {counted.top1 / seen:.1%}, top-5 {counted.top5 / seen:.1%}"
        bar.update(task, completed=counted.pictures, total=total, description=words)
        if not console.is_terminal and time.monotonic() - last_s > _LINE_EVERY_S:
            last_s = time.monotonic()
            console.print(f"{counted.pictures}/{total}  {words}", highlight=False)

    with bar:
        task = bar.add_task("")
        yield report


class _Bar(Progress):
    """The bar of the run, and below it what every slot does, where there are several."""

    doing: "Mapping[Slot, str] | None" = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar, then a line a slot."""
        yield from super().get_renderables()
        if self.doing:
            table = Table(box=None, show_header=False, pad_edge=False)
            table.add_column(style="dim", no_wrap=True)
            table.add_column(no_wrap=True, overflow="ellipsis")
            for slot, words in sorted(self.doing.items(), key=lambda one: one[0].words):
                table.add_row(slot.words, words)
            yield table


def _columns(console: Console) -> tuple[ProgressColumn, ...]:
    """What the line of a run shows; where it has little room, words of the case give way."""
    spinner = SpinnerColumn("line" if console.options.ascii_only else "dots")
    done, failures = MofNCompleteColumn(), TextColumn("{task.fields[failures]}")
    left = TimeRemainingColumn(compact=True)
    case = TextColumn(
        "{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
    )
    if console.width < _ROOMY:
        return spinner, done, failures, left, case
    bar = BarColumn(bar_width=24)
    return spinner, bar, done, failures, TimeElapsedColumn(), TextColumn("left"), left, case


class Terminal:
    """Live display on a terminal, a line every fifteen seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._failures: Counter[str] = Counter()
        self._task: TaskID | None = None
        self._words = ""
        self._last_line_s = time.monotonic()
        self._begin_s: float | None = None
        self._done_at_begin = self._done = self._total = 0
        self._doing: Mapping[Slot, str] = {}
        self._bar = _Bar(
            *_columns(console),
            console=console,
            expand=True,
            speed_estimate_period=300,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def started(self, case: Case, done: int, total: int) -> None:
        """Show what runs now."""
        words = self._words = case_words(case)
        self._done, self._total = done, total
        if self._begin_s is None:
            self._begin_s, self._done_at_begin = time.monotonic(), done
        if self._task is None:
            self._task = self._bar.add_task(
                words, total=total, completed=done, failures=self._failure_words()
            )
        self._bar.update(
            self._task,
            description=words,
            completed=done,
            total=total,
            failures=self._failure_words(),
        )
        self._line(words)

    def slots(self, doing: "Mapping[Slot, str]") -> None:
        """Show what every slot does."""
        self._doing = self._bar.doing = dict(doing)
        self._bar.refresh()
        self._line(self._words)

    def trained(self, epoch: Epoch) -> None:
        """Show loss and accuracy of the last epoch beside what runs."""
        if self._task is not None:
            words = f"{self._words}: {epoch_words(epoch)}"
            self._bar.update(self._task, description=words)
            self._line(words)

    def _line(self, words: str) -> None:
        """Print where the run is, where there is no bar to show it; not too often."""
        now = time.monotonic()
        if self._console.is_terminal or now - self._last_line_s <= _LINE_EVERY_S:
            return
        self._last_line_s = now
        left = self._left(self._done, self._total)
        self._console.print(
            f"{self._done}/{self._total}  {self._failure_words()}  {left}  now {words}",
            highlight=False,
            soft_wrap=True,
        )
        for slot, doing in sorted(self._doing.items(), key=lambda one: one[0].words):
            self.note(f"  {slot.words}: {doing}")

    def finished(self, case: Case, outcome: Outcome) -> None:
        """Count a failure and say it at once, above the bar."""
        if isinstance(outcome, _EXPECTED):
            return
        self._failures[outcome.kind] += 1
        self._console.print(
            f"[yellow]{outcome.kind}[/yellow] {case_words(case)}", highlight=False, soft_wrap=True
        )

    def note(self, text: str) -> None:
        """Say something that is not about one case."""
        self._console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    def _failure_words(self) -> str:
        failed = sum(self._failures.values())
        return "no failures" if failed == 0 else f"{failed} failed"

    def _left(self, done: int, total: int) -> str:
        here = done - self._done_at_begin
        if self._begin_s is None or here < 5:
            return "time left unknown yet"
        seconds = (time.monotonic() - self._begin_s) / here * (total - done)
        return f"about {seconds / 60:.1f} min left"
