"""What the verbs of `attnbench` share: options, device, CPUs, errors without a traceback."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click


def account_name(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> str | None:
    """Return the name of an account as records hold it: in small letters, or refuse it at once."""
    from bench.model import Name

    if value is None or _fits(value.lower(), Name):
        return value and value.lower()
    raise click.BadParameter(
        f"{value!r}: at most 96 letters, digits and . _ - after a first letter or digit; give the "
        "name of your account"
    )


def patterns(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Return shell patterns that the record of a run can hold, or refuse them at once."""
    from bench.model import Text

    if value is None or _fits(value, Text):
        return value
    raise click.BadParameter(
        f"{len(value):,} characters, {value[:40]!r} ...: at most 4,000 are recorded, without < and "
        "> and control characters; use fewer, wider patterns"
    )


def _fits(value: str, kind: Any) -> bool:
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


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
SUBMITTED_BY = click.option(
    "--submitted-by",
    callback=account_name,
    default="anonymous",
    show_default=True,
    help="Account name for the record.",
)
VARIANT_FILE = click.option(
    "--variant-file",
    "variant_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A variant from outside the tree; may be repeated.",
)


_GIVEN = "attnbench.executor_options"
STOPPED = 130
"""Exit status of a command that was ended by Ctrl-C."""
ACTIONABLE = frozenset(
    {
        "attention_impls.registry.UnknownName",
        "attention_impls.registry.VariantFileError",
        "bench.attention_matrix.NotLinearError",
        "bench.checkpoint.CheckpointError",
        "bench.dataset.WrongDataError",
        "bench.executor.PoolError",
        "bench.journal.JournalError",
        "bench.processes.LaunchError",
        "bench.training.DivergedError",
        "builtins.OSError",
        "builtins.ValueError",
    }
)
"""Errors whose message says what to do, by name: importing their modules would take seconds."""


class Failure(click.ClickException):
    """An error that a person can act on: its text, no traceback, exit status 1."""


class explained:  # noqa: N801  # reads as a statement: with explained()
    """Turn the errors that a person can act on into a message without a traceback.

    With `stopped`, Ctrl-C too: these words are printed, and the exit status is that of a command
    that was ended, which is no answer.
    """

    def __init__(self, *, stopped: str | None = None) -> None:
        self.stopped = stopped

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self.stopped is not None and isinstance(error, KeyboardInterrupt):
            click.echo(f"\n{self.stopped}")
            raise SystemExit(STOPPED) from None
        if any(f"{c.__module__}.{c.__qualname__}" in ACTIONABLE for c in type(error).__mro__):
            raise Failure(str(error)) from error


class RunCommand(click.Command):
    """A command with the options of every executor beside its own."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its own parameters and those that executors declare, each once."""
        return [*super().get_params(ctx), *_executor_parameters()]


def executor_options(name: str) -> dict[str, str]:
    """What was given for the options of executor `name` on this command line.

    Raises:
        ValueError: an option was given that the executor does not have.
    """
    from bench.executor import executor

    given: dict[str, str] = click.get_current_context().meta.get(_GIVEN, {})
    allowed = {option.name for option in executor(name).options}
    for option in given.keys() - allowed:
        known = ", ".join(f"--{one}" for one in sorted(allowed)) or "none"
        raise ValueError(f"executor {name} has no option --{option}; it has {known}")
    return given


def _executor_parameters() -> list[click.Parameter]:
    from bench.executor import Option, executors

    found: dict[str, list[tuple[str, Option]]] = {}
    for executor in executors():
        for option in executor.options:
            found.setdefault(option.name, []).append((executor.name, option))
    return [
        click.Option(
            [f"--{name}"],
            is_flag=owners[0][1].flag,
            expose_value=False,
            callback=_remember,
            help=" ".join(f"[{owner}] {option.help}" for owner, option in owners),
        )
        for name, owners in sorted(found.items())
    ]


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is None or value is False:
        return
    given = context.meta.setdefault(_GIVEN, {})
    given[str(parameter.name).replace("_", "-")] = "true" if value is True else value


def device_or_best(asked: str | None, *, elsewhere: bool = False) -> Any:
    """The device asked for; else cuda where there is one, else cpu.

    Args:
        asked: what was typed.
        elsewhere: the cases run on other machines, so that none is needed on this one.

    Raises:
        Failure: cuda was asked for, and torch finds none here.
    """
    if asked == "cpu" or (asked is not None and elsewhere):
        return asked
    # asks the driver instead of starting CUDA in this process, which workers are forked from
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        built = torch.version.cuda or "none: this build is for CPUs alone"
        raise Failure(
            f"--device cuda: torch {torch.__version__} finds no CUDA device here (CUDA of the "
            f"build: {built}); see docs/gpu.md, or give --device cpu"
        )
    return "cuda" if found else "cpu"


def add_variants(files: tuple[Path, ...]) -> None:
    """Make variants from outside the tree known."""
    from attention_impls.registry import add_variant_file, load

    with explained():
        for file in files:
            load(add_variant_file(file))


def called() -> str:
    """How `attnbench` is typed here: by its name, or by its path where it is not on the PATH."""
    beside = Path(sys.executable).parent / "attnbench"
    found = shutil.which("attnbench")
    if (found is not None and Path(found).parent == beside.parent) or not beside.exists():
        return "attnbench"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
