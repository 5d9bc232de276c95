"""What the verbs of `attnbench` share: options, device, CPUs, errors without a traceback."""

import os
import sys
from pathlib import Path
from typing import Any

import click

RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder of the results.",
)
DEVICE = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there is one."
)
VARIANT_FILE = click.option(
    "--variant-file",
    "variant_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A variant from outside the tree; may be repeated.",
)


class Failure(click.ClickException):
    """An error that a person can act on: its text, no traceback, exit status 1."""


class explained:  # noqa: N801  # reads as a statement: with explained()
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
            raise Failure(str(error)) from error


def device_or_best(asked: str | None) -> Any:
    """The device asked for; else cuda where there is one, else cpu."""
    if asked is not None:
        return asked
    # asks the driver instead of starting CUDA in this process, which workers are forked from
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def add_variants(files: tuple[Path, ...]) -> None:
    """Make variants from outside the tree known."""
    from attention_impls.registry import add_variant_file

    with explained():
        for file in files:
            add_variant_file(file)


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
