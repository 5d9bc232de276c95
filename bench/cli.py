"""The command `attnbench`: one verb a thing a person wants to do."""

import contextlib
import io
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from attention_impls.registry import names_in
from bench import cli_networks, cli_shards, cli_submit
from bench.checkout import suite_version
from bench.cli_options import (
    DEVICE,
    RESULTS,
    STOPPED,
    SUBMITTED_BY,
    VARIANT_FILE,
    Failure,
    RunCommand,
    add_variants,
    device_or_best,
    executor_options,
    explained,
    patterns,
)

_PORT = 8000
_PLAN = click.option(
    "--plan",
    "plan_name",
    default="quick",
    show_default=True,
    help=f"Which cases: {', '.join(names_in(Path(__file__).parent / 'plans'))}.",
)
_ONLY = click.option(
    "--only",
    callback=patterns,
    help="Keep cases whose variant or id matches a shell pattern; several stand apart by spaces.",
)
_DTYPE = click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Data type of inputs and parameters; may be repeated. Default: what the plan says.",
)
UNFINISHED = 75
"""Exit status of a run whose minutes were over: try again later, by sysexits.h."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(suite_version(), prog_name="attnbench")
def main() -> None:
    """Benchmark attention mechanisms and publish what was measured."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows `?` instead


@main.command(name="list")
@VARIANT_FILE
def list_(variant_files: tuple[Path, ...]) -> None:
    """List variants with their backends, backbones, plans, metrics and tasks."""
    add_variants(variant_files)
    with explained():
        _listed()


def _listed() -> None:
    from attention_impls.registry import backbones, backends, load, load_backbone, names
    from bench.metric import metrics
    from bench.plan import everything, load_plan, plan_names
    from bench.task import tasks

    for name in names():
        click.echo(f"variant  {name:18} {load(name).title}  [{', '.join(backends(name))}]")
    for name in backbones():
        spec = load_backbone(name)
        click.echo(f"backbone {name:18} {spec.title}  [{spec.variant}, {spec.resolution_px} px]")
    for name in plan_names():
        plan = load_plan(name, everything("cpu"))
        click.echo(
            f"plan     {name:18} {plan.purpose}  "
            f"[{len(plan.cases)} cases, about {plan.expected_minutes:g} min on 2 CPU cores]"
        )
    for metric in metrics():
        click.echo(f"metric   {metric.name:18} {metric.title} [{metric.unit}]")
    for task in tasks():
        click.echo(f"task     {task.name:18} {task.title}")


@main.command(cls=RunCommand)
@_PLAN
@_ONLY
@DEVICE
@_DTYPE
@VARIANT_FILE
@RESULTS
@click.option("--resume", is_flag=True, help="Go on with the last run that was stopped.")
@click.option(
    "--go-on", is_flag=True, help="As --resume where a run was stopped, else begin a new one."
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    help="Begin no case later than this; ends with status 75 if cases are left.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Of a case. Default: the CPUs of a device."
)
@click.option(
    "--together",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Devices of one node that train each network together; on cpu processes.",
)
@click.option(
    "--executor",
    default="local",
    show_default=True,
    help=f"Who runs the cases: {', '.join(names_in(Path(__file__).parent / 'executors'))}.",
)
@SUBMITTED_BY
@click.option(
    "--site",
    "site_folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("site/_build"),
    show_default=True,
    help="Where the page is rendered.",
)
def run(
    plan_name: str,
    only: str | None,
    device: str | None,
    dtypes: tuple[str, ...],
    variant_files: tuple[Path, ...],
    results: Path,
    resume: bool,
    go_on: bool,
    minutes: float | None,
    threads: int | None,
    together: int,
    executor: str,
    submitted_by: str,
    site_folder: Path,
) -> None:
    """Measure this machine, write results/, render the site."""
    from bench import plan as plans
    from bench.measure import Order, measure, unfinished
    from bench.summary import last_screen
    from bench.sweep import TimeIsUp
    from bench.terminal import Terminal, minutes_words

    console = Console()
    add_variants(variant_files)
    chosen = device_or_best(device, elsewhere=executor != "local")
    with explained():
        plan = plans.load_plan(plan_name, plans.everything(chosen, _dtypes(dtypes), only))
        if only is not None:
            plans.refuse_idle(plan, only)
            plan = plans.only(plan, only)
        options = executor_options(executor)
    order = Order(
        plan=plan,
        device=chosen,
        threads=threads,
        results=results.resolve(),
        resume=resume or go_on,
        or_anew=go_on,
        minutes=minutes,
        only=only,
        submitted_by=submitted_by,
        executor=executor,
        together=together,
        options=options,
    )
    console.print(
        f"attnbench {suite_version()}: plan [bold]{plan.name}[/bold], {len(plan.cases)} cases, "
        f"{chosen}, {minutes_words(plan.expected_minutes)}",
        highlight=False,
    )
    journals = order.results.parent
    before = unfinished(journals)
    try:
        with Terminal(console) as terminal, explained():
            finished = measure(order, terminal)
    except (KeyboardInterrupt, TimeIsUp) as stop:
        late = isinstance(stop, TimeIsUp)
        kept = resume or unfinished(journals) != before or (go_on and bool(before))
        words = _stopped_words(f"{minutes:g} minutes are over" if late else "Stopped", kept)
        console.print(f"\n{words}", highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(UNFINISHED if late else STOPPED) from None
    console.print("rendering the site", style="dim", highlight=False)
    try:
        page = _render(results, site_folder, variant_files)
    except (Failure, KeyboardInterrupt) as stopped:
        for one in finished:
            last_screen(one, None, console)
        if isinstance(stopped, Failure):
            raise
        console.print("\nStopped while the site was rendered; render it with\n  nox -s site")
        raise SystemExit(STOPPED) from None
    for one in finished:
        last_screen(one, page, console)


@main.command()
@RESULTS
@VARIANT_FILE
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("site/_build"),
    show_default=True,
    help="Folder for the pages.",
)
@click.option("--serve", is_flag=True, help="Serve the pages on this machine until Ctrl-C.")
def site(results: Path, variant_files: tuple[Path, ...], out: Path, serve: bool) -> None:
    """Render results/ into a static site that opens from disk."""
    if not results.is_dir():
        raise Failure(f"{results} is not a folder; give the results folder")
    click.echo("rendering the site", err=True)
    click.echo(_render(results, out, variant_files))
    if serve:
        server = [sys.executable, "-u", "-m", "http.server", str(_free_port())]
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            subprocess.run([*server, "--bind", "127.0.0.1", "--directory", str(out)], check=False)


@main.command()
@click.argument("run_id", required=False)
@RESULTS
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json", "pytest-benchmark"]),
    default="csv",
    show_default=True,
    help="pytest-benchmark needs a RUN_ID.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write. Default: standard output.",
)
def export(run_id: str | None, results: Path, form: str, out: Path | None) -> None:
    """Write the newest rows of all runs, or one run, in a form other tools read.

    RUN_ID is the id of a run or its start.
    """
    from bench.export import exported

    with explained():
        text = exported(results.resolve(), run_id, form)
        if out is not None:
            out.write_text(text, encoding="utf-8")
    if out is None:
        click.echo(text, nl=False)


def _free_port() -> int:
    """The usual port, or 0, any that is free, where something else listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _PORT))
        except OSError:
            return 0
    return _PORT


def _dtypes(asked: tuple[str, ...]) -> Any:
    return asked or None


def _render(results: Path, out: Path, variant_files: tuple[Path, ...] = ()) -> Path:
    """Build the site in a process of its own: the generator is a program above this one."""
    command = [sys.executable, "-m", "leaderboard", "--results", str(results), "--out", str(out)]
    for file in variant_files:
        command += ["--variant-file", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"the site was not rendered: {done.stderr.strip()}")
    return out / "index.html"


def _stopped_words(why: str, kept: bool) -> str:
    """What to say of a run that was stopped: nothing is lost, and the command that goes on."""
    started_as = "attnbench run" if Path(sys.argv[0]).stem == "attnbench" else "nox -s bench --"
    arguments = [one for one in sys.argv[2:] if one not in ("--resume", "--go-on")]
    if not kept:
        again = f"{started_as} {shlex.join(arguments)}".rstrip()
        return f"{why} before anything was measured; start again with\n  {again}"
    again = f"{started_as} {shlex.join([*arguments, '--resume'])}"
    return f"{why}. Nothing measured is lost; go on with\n  {again}"


for _verb in (
    cli_submit.check,
    cli_submit.submit,
    cli_submit.repro,
    cli_submit.compare,
    cli_networks.import_checkpoint,
    cli_networks.evaluate,
    cli_networks.download,
    cli_networks.analyse,
    cli_networks.demo,
    cli_shards.merge,
):
    main.add_command(_verb)


if __name__ == "__main__":
    main()
