"""The verb that puts journals of parts of one plan together."""

from pathlib import Path

import click
from rich.console import Console

from bench.cli_options import RESULTS, SUBMITTED_BY, explained


@click.command()
@click.argument("journals", nargs=-1, required=True, type=click.Path(path_type=Path))
@RESULTS
@SUBMITTED_BY
def merge(journals: tuple[Path, ...], results: Path, submitted_by: str) -> None:
    """Put the JOURNALS of parts of one plan together, and write the run if nothing is missing.

    A part of another plan, protocol, commit or kind of device is refused by name. Where visits are
    missing the journal is left among the unfinished runs, and `run --resume` makes them.
    """
    from bench.measure import JOURNALS, write
    from bench.shards import missing, put_together

    console = Console()
    folder = results.resolve().parent / JOURNALS
    with explained():
        folder.mkdir(parents=True, exist_ok=True)
        stem = "-".join(path.stem for path in journals[:1])
        with put_together(journals, folder / f"{stem}-merged.jsonl") as joined:
            left = missing(joined)
            if left:
                console.print(
                    f"{left} visits are missing; make them with\n  nox -s bench -- --plan "
                    f"{joined.header.plan.name} --resume",
                    highlight=False,
                )
                return
            finished = write(joined, results.resolve(), submitted_by)
    console.print(str(finished.folder), highlight=False, soft_wrap=True)
