"""Measure one published row again, and say whether it stands."""

import tempfile
from pathlib import Path

from rich.console import Console

from bench import merge
from bench.description import described
from bench.executors import local
from bench.journal import Journal
from bench.model import DeviceKind
from bench.reproduce import find_row, judge, repeat_plan
from bench.terminal import Terminal, case_words


def repeat_row(row: str, results: Path, device: DeviceKind, console: Console) -> bool:
    """Measure `row` again by the protocol it was published with; return whether it stands.

    Writes nothing into results/: one row is no run.

    Raises:
        UnknownName: no such row.
        ValueError: several rows fit, or the row belongs to another kind of device.
    """
    published = find_row(results, row)
    environment = published.run.environment
    if environment.device != device:
        raise ValueError(
            f"{row} was measured on {environment.device}, this would run on {device}; "
            f"give --device {environment.device} on such a machine"
        )
    console.print(f"{case_words(published.record.case)}", highlight=False, soft_wrap=True)
    console.print(
        f"published in run {published.run.run_id} on {environment.hardware_id}, "
        f"commit {published.run.commit or 'unknown'}",
        highlight=False,
        soft_wrap=True,
    )
    plan = repeat_plan(published)
    with tempfile.TemporaryDirectory() as folder, Terminal(console) as terminal:
        terminal.note("measuring the machine's own limits")
        header = described(plan, device, environment.threads, None)
        with Journal.create(Path(folder) / "repeat.jsonl", header) as journal:
            local.run(plan, journal, device, terminal)
            (repeated,) = merge.records(plan, journal)
    judgement = judge(published, header.environment, repeated)
    console.print(judgement.words, highlight=False, soft_wrap=True)
    console.print(f"[bold]{judgement.agreement}[/bold]", highlight=False)
    for difference in judgement.differences:
        console.print(f"  differs: {difference}", style="dim", highlight=False, soft_wrap=True)
    return judgement.agrees
