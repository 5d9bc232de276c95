"""Measure one published row again, and say whether it stands."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench import merge, submission
from bench.description import described
from bench.devices_together import together_of
from bench.executors import local
from bench.journal import Journal
from bench.measure import require_writable, run_of
from bench.model import DeviceKind
from bench.published import find_row
from bench.reproduce import judge, repeat_plan
from bench.terminal import Terminal, case_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """What became of a repetition."""

    agrees: bool
    """Whether the published row stands."""
    folder: Path | None
    """Of the run that records it; None where it is not recorded."""


def repeat_row(
    row: str,
    results: Path,
    device: DeviceKind,
    console: Console,
    *,
    of: str | None = None,
    submitter: str | None = None,
) -> Repeated:
    """Measure `row` again by the protocol it was published with, and say whether it stands.

    Args:
        row: a case id, the start of it, or the digits after `#`.
        results: the results folder.
        device: where it runs.
        console: what is printed to.
        of: the run that published it; None: the newest.
        submitter: account under which the reproduction is recorded in `results`; None: it is not.

    Raises:
        UnknownName: no such row.
        ValueError: several rows fit, or the row belongs to another kind of device.
        JournalError: the reproduction could not be recorded in `results`.
    """
    published = find_row(results, row, of)
    environment = published.run.environment
    if environment.device != device:
        raise ValueError(
            f"{row} was measured on {environment.device}, this would run on {device}; "
            f"give --device {environment.device} on such a machine"
        )
    if submitter is not None:
        require_writable(results)
    console.print(f"{case_words(published.record.case)}", highlight=False, soft_wrap=True)
    console.print(
        f"published in run {published.run.run_id} on {environment.hardware_id}, "
        f"commit {published.run.commit or 'unknown'}",
        highlight=False,
        soft_wrap=True,
    )
    if published.others:
        console.print(
            f"also in {', '.join(published.others)}: --of RUN repeats the row of another run",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )
    plan = repeat_plan(published)
    with tempfile.TemporaryDirectory() as folder, Terminal(console) as terminal:
        terminal.note("measuring the machine's own limits")
        together = together_of(environment.settings)
        header = described(plan, device, environment.threads, None, together)
        with Journal.create(Path(folder) / "repeat.jsonl", header) as journal:
            # a limit of one moment can be a slow one; what is recorded needs both ends
            local.run(plan, journal, device, terminal, limits_again=submitter is not None)
            (repeated,) = merge.records(plan, journal)
            folder_of_run = None
            if submitter is not None:
                folder_of_run = recorded(journal, results, submitter)
    judgement = judge(published, header.environment, repeated)
    console.print(judgement.words, highlight=False, soft_wrap=True)
    console.print(f"[bold]{judgement.verdict}[/bold]", highlight=False)
    for difference in judgement.differences:
        console.print(f"  differs: {difference}", style="dim", highlight=False, soft_wrap=True)
    if not judgement.differences:
        console.print("  machine and software are the same", style="dim", highlight=False)
    if folder_of_run is not None:
        console.print(f"recorded: {folder_of_run}", highlight=False, soft_wrap=True)
    return Repeated(agrees=judgement.agrees, folder=folder_of_run)


def recorded(journal: Journal, results: Path, submitter: str) -> Path:
    """Write a finished repetition into the results folder, as a run that tiers read."""
    return submission.write_run(results, *run_of(journal, submitter))
