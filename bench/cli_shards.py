"""The verb that puts journals of parts of one plan together."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from bench.cli_options import RESULTS, SUBMITTED_BY, explained

if TYPE_CHECKING:
    from bench.journal_lines import Header


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
                    f"{left} visits are missing; make them with (and --dtype, --threads or "
                    f"--executor as the parts were made)\n  {_going_on(joined.header, results)}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
                return
            finished = write(joined, results.resolve(), submitted_by)
    console.print(str(finished.folder), highlight=False, markup=False, soft_wrap=True)


def _going_on(header: "Header", results: Path) -> str:
    """The command that makes what is missing, as far as the journal knows how it was begun."""
    words = ["--plan", header.plan.name]
    if header.only is not None:
        words += ["--only", header.only]
    for file in header.variant_files:
        words += ["--variant-file", file]
    if results != Path("results"):
        words += ["--results", str(results)]
    return f"nox -s bench -- {shlex.join([*words, '--resume'])}"
