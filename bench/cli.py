"""The command `attnbench`: one verb a thing a person wants to do."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.checkout import suite_version

_RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder of the results.",
)
_PLAN = click.option("--plan", "plan_name", default="quick", show_default=True, help="Which cases.")
_ONLY = click.option("--only", help="Keep cases whose variant or id matches this shell pattern.")
_DEVICE = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there is one."
)
_DTYPE = click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="May be repeated. Default: what the plan says.",
)
_VARIANT_FILE = click.option(
    "--variant-file",
    "variant_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A variant from outside the tree; may be repeated.",
)


_BACKBONE = click.option("--backbone", required=True, help="Id of a whole model, see `list`.")
_RESOLUTION = click.option(
    "--resolution",
    "resolution_px",
    type=click.IntRange(min=1),
    help="Side of the input in pixels; position tables are interpolated. Default: as published.",
)
_AVERAGED = click.option(
    "--averaged", is_flag=True, help="Take the running average of the parameters (EMA)."
)


class _Failure(click.ClickException):
    """An error that a person can act on: its text, no traceback, exit status 1."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(suite_version(), prog_name="attnbench")
def main() -> None:
    """Benchmark attention mechanisms and publish what was measured."""


@main.command(name="list")
@_VARIANT_FILE
def list_(variant_files: tuple[Path, ...]) -> None:
    """List variants with their backends, backbones, plans, metrics and tasks."""
    from attention_impls.registry import backbones, backends, load, load_backbone, names
    from bench.metric import metrics
    from bench.plan import everything, load_plan, plan_names
    from bench.task import tasks

    _add_variants(variant_files)
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


@main.command()
@_PLAN
@_ONLY
@_DEVICE
@_DTYPE
@_VARIANT_FILE
@_RESULTS
@click.option("--resume", is_flag=True, help="Go on with the last run that was stopped.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: the CPUs of this process.")
@click.option("--executor", default="local", show_default=True, help="Who runs the cases.")
@click.option(
    "--submitted-by", default="anonymous", show_default=True, help="Account name for the record."
)
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
    threads: int | None,
    executor: str,
    submitted_by: str,
    site_folder: Path,
) -> None:
    """Measure this machine, write results/, render the site."""
    from bench import plan as plans
    from bench.measure import Order, measure
    from bench.summary import last_screen
    from bench.terminal import Terminal

    console = Console()
    _add_variants(variant_files)
    chosen = _device(device)
    with _explained():
        plan = plans.load_plan(plan_name, plans.everything(chosen, _dtypes(dtypes), only))
        if only is not None:
            plan = plans.only(plan, only)
    order = Order(
        plan=plan,
        device=chosen,
        threads=threads or _usable_cpus(),
        results=results.resolve(),
        resume=resume,
        only=only,
        submitted_by=submitted_by,
        executor=executor,
    )
    console.print(
        f"attnbench {suite_version()}: plan [bold]{plan.name}[/bold], {len(plan.cases)} cases, "
        f"{chosen}, about {plan.expected_minutes:.0f} min",
        highlight=False,
    )
    try:
        with Terminal(console) as terminal, _explained():
            finished = measure(order, terminal)
    except KeyboardInterrupt:
        again = " ".join(["nox -s bench --", *_without_resume(sys.argv[2:]), "--resume"])
        console.print(
            f"\nStopped. Nothing measured is lost; go on with\n  {again}", highlight=False
        )
        raise SystemExit(130) from None
    page = _render(results, site_folder)
    last_screen(finished, page, console)


@main.command()
@click.argument("row")
@_RESULTS
@_DEVICE
@_VARIANT_FILE
def repro(row: str, results: Path, device: str | None, variant_files: tuple[Path, ...]) -> None:
    """Measure one published row again and say whether it agrees. ROW: a case id or its start."""
    from bench.repeat import repeat_row

    _add_variants(variant_files)
    with _explained():
        agreed = repeat_row(row, results.resolve(), _device(device), Console())
    raise SystemExit(0 if agreed else 1)


@main.command()
@click.argument("run_a")
@click.argument("run_b")
@_RESULTS
def compare(run_a: str, run_b: str, results: Path) -> None:
    """Compare two runs case by case: faster, slower or undecided."""
    from bench.reproduce import compare_runs

    with _explained():
        click.echo(compare_runs(results.resolve(), run_a, run_b))


@main.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@_RESULTS
def check(paths: tuple[Path, ...], results: Path) -> None:
    """Validate results: the one validator that CI and the site use."""
    from bench.rules import check_results

    with _explained():
        findings = check_results(results.resolve(), paths)
    for finding in findings:
        click.echo(str(finding))
    errors = sum(finding.severity == "error" for finding in findings)
    click.echo(f"{errors} errors, {len(findings) - errors} other findings")
    if findings:
        click.echo("docs/rules/ has a page for each rule: what it finds, why, and what to do")
    raise SystemExit(1 if errors else 0)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_BACKBONE
@_RESOLUTION
@_AVERAGED
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the parameters under our names (.safetensors). Default: check, write nothing.",
)
def import_checkpoint(
    file: Path, backbone: str, resolution_px: int | None, averaged: bool, out: Path | None
) -> None:
    """Read a checkpoint of the authors for a backbone, strictly, executing nothing in it."""
    from attention_impls.registry import load_backbone
    from bench.importing import imported, save

    with _explained():
        found = imported(file, load_backbone(backbone), resolution_px, averaged=averaged)
        if out is not None:
            save(found, out)
    numbers = sum(value.numel() for value in found.parameters.values())
    click.echo(
        f"{file}: {backbone}, {len(found.parameters)} entries, {numbers:,} numbers, "
        f"{found.num_classes} classes, {found.resolution_px} px"
    )
    for name in found.fitted:
        click.echo(f"interpolated {name}")
    for name, reason in found.unused.items():
        click.echo(f"not needed   {name}: {reason}")
    click.echo(f"wrote {out}" if out else "nothing was written (--out FILE.safetensors writes it)")


@main.command()
@_BACKBONE
@click.option(
    "--checkpoint",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file of the authors, or one from import-checkpoint.",
)
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with one folder of pictures a class.",
)
@_RESOLUTION
@_AVERAGED
@click.option(
    "--classes",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The folder of each output, one name a line. Default: the folders sorted by name.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Pictures at once."
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that decode pictures. Default: the CPUs of this process but one.",
)
@_DEVICE
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the result is written. Default: BACKBONE.evaluation.json.",
)
def evaluate(
    backbone: str,
    checkpoint: Path,
    data: Path,
    resolution_px: int | None,
    averaged: bool,
    classes: Path | None,
    batch: int,
    workers: int | None,
    device: str | None,
    out: Path | None,
) -> None:
    """Top-1 and top-5 of a checkpoint on a folder of pictures; when stopped, repeat to go on."""
    from attention_impls.registry import load_backbone
    from bench import evaluation
    from bench.importing import imported
    from bench.pictures import listed
    from bench.terminal import counting

    with _explained():
        spec = load_backbone(backbone)
        found = imported(checkpoint, spec, resolution_px, averaged=averaged)
        names = tuple(classes.read_text(encoding="utf-8").splitlines()) if classes else None
        order = evaluation.Order(
            spec=spec,
            checkpoint=found,
            pictures=listed(data, found.num_classes, names),
            preparation=spec.preparation,
            batch=batch,
            workers=max(0, _usable_cpus() - 1) if workers is None else workers,
            device=_device(device),
            out=out or Path(f"{backbone}.evaluation.json"),
        )
        try:
            with counting(Console(), f"{backbone} at {found.resolution_px} px") as report:
                result = evaluation.evaluate(order, report)
        except KeyboardInterrupt:
            click.echo("Stopped. Nothing counted is lost; the same command goes on.")
            raise SystemExit(130) from None
    click.echo(
        f"{backbone}: top-1 {result.top1:.2%}, top-5 {result.top5:.2%} of {result.pictures:,} "
        f"pictures; {order.out}"
    )


@main.command()
@_RESULTS
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("site/_build"),
    show_default=True,
    help="Folder for the pages.",
)
@click.option("--serve", is_flag=True, help="Serve the pages on this machine until Ctrl-C.")
def site(results: Path, out: Path, serve: bool) -> None:
    """Render results/ into a static site that opens from disk."""
    click.echo(_render(results, out))
    if serve:
        subprocess.run(
            [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(out)],
            check=False,
        )


@main.command()
@click.argument("run_id", required=False)
@_RESULTS
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json", "pytest-benchmark"]),
    default="csv",
    show_default=True,
    help="pytest-benchmark needs a RUN_ID.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: stdout.")
def export(run_id: str | None, results: Path, form: str, out: Path | None) -> None:
    """Write the whole table, or one run, in a form other tools read."""
    from bench.export import exported

    with _explained():
        text = exported(results.resolve(), run_id, form)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


@main.command()
@click.argument("dataset", required=False)
def download(dataset: str | None) -> None:
    """Bring a data set to this machine, with its checksum. Without DATASET: list them."""
    from bench.download import download as fetched
    from bench.download import folders, sources

    known = {source.name: source for source in sources()}
    if dataset is None:
        for source in known.values():
            size = f"{source.size_bytes / 1e6:.0f} MB" if source.remotes else "not to be downloaded"
            click.echo(f"{source.name:22} {source.title}  [{size}]  {folders(source)[0]}")
        return
    if dataset not in known:
        raise _Failure(f"data set {dataset!r}: allowed {', '.join(known)}")
    with _explained():
        click.echo(fetched(known[dataset], click.echo))


@main.command()
@click.argument("names", nargs=-1)
@_RESULTS
@_DEVICE
@click.option("--variant", "variants", multiple=True, help="May be repeated. Default: its own.")
@click.option("--task", default="digits", show_default=True, help="Networks are trained on it.")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Trainings a network."
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: the CPUs of this process.")
def analyse(
    names: tuple[str, ...],
    results: Path,
    device: str | None,
    variants: tuple[str, ...],
    task: str,
    seeds: int,
    threads: int | None,
) -> None:
    """Ask why: run analyses (without NAMES: list them) and write results/analyses/."""
    from bench.analysis import analysis, analysis_names
    from bench.analyst import analysed

    if not names:
        for name in analysis_names():
            click.echo(f"{name:18} {analysis(name).question}")
        return
    with _explained():
        for name in names:
            path, report = analysed(
                analysis(name),
                results.resolve(),
                device=_device(device),
                variants=variants,
                task=task,
                seeds=tuple(range(seeds)),
                threads=threads or _usable_cpus(),
                note=click.echo,
            )
            click.echo(f"{report.finding}\n{path}")


@main.command()
@_DEVICE
@click.option("--variant", default="inline", show_default=True, help="Attention of every block.")
@click.option(
    "--epochs", type=click.IntRange(min=1), default=100, show_default=True, help="Of the schedule."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder of images: train/CLASS/IMAGE and test/CLASS/IMAGE. Default: CIFAR-10.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".attnbench/demo"),
    show_default=True,
    help="Checkpoints, numbers and the page.",
)
def demo(device: str | None, variant: str, epochs: int, data: Path | None, out: Path) -> None:
    """Train InLine in a DeiT-T-sized network on CIFAR-10, and show what it has learned."""
    from dataclasses import replace

    from bench.demo import RECIPE, Wishes, demonstrate

    recipe = replace(RECIPE, epochs=epochs)
    wishes = Wishes(variant=variant, recipe=recipe, device=_device(device), data=data, out=out)
    with _explained():
        click.echo(demonstrate(wishes, click.echo))


def _add_variants(files: tuple[Path, ...]) -> None:
    from attention_impls.registry import add_variant_file

    with _explained():
        for file in files:
            add_variant_file(file)


def _device(asked: str | None) -> Any:
    if asked is not None:
        return asked
    # asks the driver instead of starting CUDA in this process, which workers are forked from
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _usable_cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _dtypes(asked: tuple[str, ...]) -> Any:
    return asked or None


def _render(results: Path, out: Path) -> Path:
    """Build the site in a process of its own: the generator is a program above this one."""
    command = [sys.executable, "-m", "leaderboard", "--results", str(results), "--out", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise _Failure(f"the site was not rendered:\n{done.stderr}")
    return out / "index.html"


def _without_resume(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument != "--resume"]


class _explained:  # noqa: N801  # reads as a statement: with _explained()
    """Turn the errors that a person can act on into a message without a traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from attention_impls.registry import UnknownName
        from bench.dataset import WrongDataError
        from bench.journal import JournalError
        from bench.measure import NothingToResumeError

        if isinstance(
            error,
            (UnknownName, ValueError, OSError, JournalError, NothingToResumeError, WrongDataError),
        ):
            raise _Failure(str(error)) from error


if __name__ == "__main__":
    main()
