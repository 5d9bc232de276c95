"""The verbs of `attnbench` for published results: check, submit, repro, compare."""

from pathlib import Path

import click
from rich.console import Console

from bench.cli_options import (
    DEVICE,
    RESULTS,
    VARIANT_FILE,
    account_name,
    add_variants,
    called,
    device_or_best,
    explained,
)

_ACCOUNT = "Your account; default: git's github.user."


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@RESULTS
@click.option("--base", help="Revision that results are only added to. Default: the main branch.")
@click.option("--account", help="Who submits what is new; runs of others are errors.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write what was found as JSON.",
)
def check(
    paths: tuple[Path, ...],
    results: Path,
    base: str | None,
    account: str | None,
    report: Path | None,
) -> None:
    """Validate results: the one validator that CI and the site use.

    PATHS are files or folders below the results folder: findings elsewhere are left out. The exit
    status is 1 where a rule found an error.
    """
    from bench.ledger import ledger
    from bench.rules import check_results

    root = results.resolve()
    with explained():
        findings = check_results(root, paths, base=base, account=account)
        history = ledger(root, base)
        if report is not None:
            from bench.check_report import write_report

            write_report(report, root, findings, base)
    for finding in findings:
        click.echo(str(finding))
    errors = sum(finding.severity == "error" for finding in findings)
    click.echo(f"{errors} errors, {len(findings) - errors} other findings")
    click.echo(
        "history not compared: no git checkout with a main branch"
        if history is None
        else f"history compared with {history.base[:10]} ({history.named})"
    )
    if findings:
        click.echo("docs/rules/ has a page for each rule: what it finds, why, and what to do")
    raise SystemExit(1 if errors else 0)


@click.command()
@click.argument("run")
@RESULTS
@click.option("--account", callback=account_name, help=_ACCOUNT)
@click.option("--remote", default="origin", show_default=True, help="Where the branch is pushed.")
@click.option("--run", "carry", is_flag=True, help="Run the git commands instead of printing them.")
def submit(run: str, results: Path, account: str | None, remote: str, carry: bool) -> None:
    """Make a run ready for a pull request. RUN: its id, the start of it, or its folder."""
    from bench.submit import carry_out, prepare

    with explained():
        submission = prepare(run, results, _account(account, results), remote=remote)
    header = submission.run
    click.echo(f"{submission.folder}: plan {header.plan}, {len(header.files)} variants, accepted")
    if submission.laid_out:
        click.echo("run.json was laid out again; its contents are the same")
    if header.submitted_by == "anonymous":
        click.echo("It is anonymous: nobody's reproduction can be told from it, nor it from them.")
    for note in submission.notes:
        click.echo(str(note))
    if not carry:
        click.echo(
            "\nThese commands publish it, from the top of the checkout (--run runs them):\n\n"
            f"{submission.script}\n"
        )
    else:
        with explained():
            carry_out(submission, results)
        click.echo("pushed")
    click.echo("Then open a pull request: gh pr create --fill, or on the web.")
    click.echo(
        "Before you measure again: git switch -, since the branch's commit is nobody else's."
    )


@click.command()
@click.argument("row")
@RESULTS
@DEVICE
@VARIANT_FILE
@click.option("--of", "of", metavar="RUN", help="The run that published it. Default: the newest.")
@click.option("--submit", "record", is_flag=True, help="Record it as a run that can be submitted.")
@click.option("--account", callback=account_name, help=f"With --submit: who measures. {_ACCOUNT}")
def repro(
    row: str,
    results: Path,
    device: str | None,
    variant_files: tuple[Path, ...],
    of: str | None,
    record: bool,
    account: str | None,
) -> None:
    """Measure one published row again and say whether it agrees.

    ROW is a case id, its start, or the digits after its #. The exit status is 0 where the row
    stands, 1 where it does not or could not be measured, 130 after Ctrl-C.
    """
    from bench.repeat import repeat_row

    add_variants(variant_files)
    with explained(stopped="Stopped before the row was judged; nothing was recorded."):
        submitter = _account(account, results).lower() if record else None
        repeated = repeat_row(
            row, results.resolve(), device_or_best(device), Console(), of=of, submitter=submitter
        )
    if repeated.folder is not None:
        click.echo(f"  {called()} submit {repeated.folder.name}")
    raise SystemExit(0 if repeated.agrees else 1)


@click.command()
@click.argument("run_a")
@click.argument("run_b")
@RESULTS
def compare(run_a: str, run_b: str, results: Path) -> None:
    """Compare two runs case by case: is RUN_B faster, slower or undecided?

    RUN_A and RUN_B are ids of runs, their starts, or HARDWARE_ID/RUN_ID.
    """
    from bench.comparison import compare_runs

    with explained():
        click.echo(compare_runs(results.resolve(), run_a, run_b))


def _account(given: str | None, results: Path) -> str:
    from bench.submit import configured_account

    found = given or configured_account(results.resolve())
    if found is None:
        raise ValueError(
            "nobody knows who you are: give --account NAME, or run git config github.user NAME"
        )
    return found
