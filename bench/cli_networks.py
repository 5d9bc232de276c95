"""Verbs of `attnbench` about whole networks: their checkpoints, data, training and analysis."""

from pathlib import Path

import click
from rich.console import Console

from bench.cli_options import DEVICE, RESULTS, STOPPED, Failure, device_or_best, explained
from bench.load import own_cpus

BACKBONE = click.option("--backbone", required=True, help="Id of a whole model, see `list`.")
RESOLUTION = click.option(
    "--resolution",
    "resolution_px",
    type=click.IntRange(min=1),
    help="Side of the input in pixels; position tables are interpolated. Default: as imported, "
    "else as published.",
)
AVERAGED = click.option(
    "--averaged", is_flag=True, help="Take the running average of the parameters (EMA)."
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@BACKBONE
@RESOLUTION
@AVERAGED
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

    with explained():
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


@click.command()
@BACKBONE
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
@RESOLUTION
@AVERAGED
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
@DEVICE
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

    with explained():
        spec = load_backbone(backbone)
        found = imported(checkpoint, spec, resolution_px, averaged=averaged)
        names = tuple(classes.read_text(encoding="utf-8").splitlines()) if classes else None
        order = evaluation.Order(
            spec=spec,
            checkpoint=found,
            pictures=listed(data, found.num_classes, names),
            preparation=spec.preparation,
            batch=batch,
            workers=max(0, own_cpus() - 1) if workers is None else workers,
            device=device_or_best(device),
            out=out or Path(f"{backbone}.evaluation.json"),
        )
        try:
            with counting(Console(), f"{backbone} at {found.resolution_px} px") as report:
                result = evaluation.evaluate(order, report)
        except KeyboardInterrupt:
            click.echo("Stopped. Nothing counted is lost; the same command goes on.")
            raise SystemExit(STOPPED) from None
    click.echo(
        f"{backbone}: top-1 {result.top1:.2%}, top-5 {result.top5:.2%} of {result.pictures:,} "
        f"pictures; {order.out}"
    )


@click.command()
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
        raise Failure(f"data set {dataset!r}: allowed {', '.join(known)}")
    with explained(stopped="Stopped. The same command gets what is missing."):
        click.echo(fetched(known[dataset], click.echo))


@click.command()
@click.argument("names", nargs=-1)
@RESULTS
@DEVICE
@click.option("--variant", "variants", multiple=True, help="May be repeated. Default: its own.")
@click.option(
    "--task", default="digits_fine_64", show_default=True, help="Networks are trained on it."
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings a network."
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: the CPUs of this process.")
@click.option(
    "--image", type=click.IntRange(min=0), default=0, show_default=True, help="Shown in pictures."
)
@click.option("--head", type=click.IntRange(min=0), help="Shown. Default: the mean of all heads.")
@click.option(
    "--query",
    type=(click.IntRange(min=0), click.IntRange(min=0)),
    metavar="ROW COLUMN",
    help="Token whose weights are shown. Default: the middle one.",
)
def analyse(
    names: tuple[str, ...],
    results: Path,
    device: str | None,
    variants: tuple[str, ...],
    task: str,
    seeds: int,
    threads: int | None,
    image: int,
    head: int | None,
    query: tuple[int, int] | None,
) -> None:
    """Ask why: run analyses (without NAMES: list them) and write results/analyses/."""
    from bench.analysis import Look, analysis, analysis_names
    from bench.analyst import analysed

    if not names:
        for name in analysis_names():
            click.echo(f"{name:18} {analysis(name).question}")
        return
    with explained(stopped="Stopped. Trained networks are kept; the same command goes on."):
        for name in names:
            path, report = analysed(
                analysis(name),
                results.resolve(),
                device=device_or_best(device),
                variants=variants,
                task=task,
                seeds=tuple(range(seeds)),
                threads=threads or own_cpus(),
                look=Look(image=image, head=head, query=query),
                note=click.echo,
            )
            click.echo(f"{report.finding}\n{path}")


@click.command()
@DEVICE
@click.option("--variant", help="Attention of every block. Default: inline, as published.")
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
def demo(
    device: str | None, variant: str | None, epochs: int, data: Path | None, out: Path
) -> None:
    """Train InLine-DeiT-T on CIFAR-10, and show what it has learned."""
    from dataclasses import replace

    from bench.demo import RECIPE, Wishes, demonstrate

    recipe = replace(RECIPE, epochs=epochs)
    wishes = Wishes(
        variant=variant, recipe=recipe, device=device_or_best(device), data=data, out=out
    )
    with explained(stopped="Stopped. The same command goes on after the last whole epoch."):
        click.echo(demonstrate(wishes, click.echo))
