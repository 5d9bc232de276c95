"""What is asked of Slurm: options of the command line become arguments of `sbatch` and a script.

The tasks run the files of this checkout, which must be on a file system that every node sees.
"""

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.executor import Option
from bench.import_path import ROOT
from bench.model import DeviceKind

_KIND = re.compile(r"(?:(?P<name>[A-Za-z0-9_.\-]+):)?(?P<count>[1-9]\d{0,4})")
_POLL_S = 10.0
_PATIENCE_S = 1800.0

OPTIONS = (
    Option(
        name="gpus",
        help="On cuda: how many GPUs of which type, such as h100:4,a100:8 (default: a slot's).",
    ),
    Option(
        name="tasks",
        help="On cpu: how many tasks on nodes with which feature, such as genoa:4 (default: 1).",
    ),
    Option(name="cpus", help="CPUs of a task (default: what the partition gives)."),
    Option(name="partition", help="Where to submit (default: the cluster's)."),
    Option(name="constraint", help="Features that the nodes must have."),
    Option(name="exclusive", help="A task shares its node with nobody.", flag=True),
    Option(name="time", help="Time limit of a task (default: the partition's)."),
    Option(name="venv", help="Virtual environment of the tasks (default: this interpreter)."),
    Option(name="container", help="Image that Apptainer runs the tasks in (default: none)."),
    Option(name="setup", help="Shell commands before a task, such as 'module load cuda'."),
    Option(name="sbatch", help="Further arguments of sbatch, such as '--qos=low --mem=32G'."),
    Option(
        name="shared",
        help="Folder for messages and logs that every node sees (default: .attnbench/slurm).",
    ),
    Option(name="poll", help="Seconds between two questions to Slurm (default: 10)."),
    Option(
        name="patience",
        help="Seconds that an idle task waits for a driver that is gone (default: 1800).",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Devices that were asked for by one name."""

    name: str
    """`h100`, `genoa`; `any` where no type was given."""
    count: int
    """Tasks."""
    request: tuple[str, ...]
    """Arguments of sbatch that get a task one of them, or a whole group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Everything that is asked of Slurm."""

    kinds: tuple[Kind, ...]
    arguments: tuple[str, ...]
    """Arguments of sbatch that all tasks share."""
    interpreter: tuple[str, ...]
    """Words before `-m bench.slurm.task`."""
    setup: str
    """Shell commands before a task; may be empty."""
    shared: Path
    poll_s: float
    patience_s: float


def wishes(options: Mapping[str, str], device: DeviceKind, together: int = 1) -> Wishes:
    """Read the options of the command line.

    Args:
        options: by name.
        device: kind of the devices.
        together: devices of a task; on `cpu` processes, which share the task's CPUs.

    Raises:
        ValueError: one of them makes no sense; the message says which and what is allowed.
    """
    wrong = {"cuda": "tasks", "cpu": "gpus"}[device]
    if wrong in options:
        other = {"cuda": "gpus", "cpu": "tasks"}[device]
        raise ValueError(f"--{wrong} is not for --device {device}: give --{other}, or the device")
    if "venv" in options and "container" in options:
        raise ValueError("--venv and --container: give one of them")
    if "\n" in options.get("setup", ""):
        raise ValueError("--setup: one line; join commands by ' && '")
    shared = Path(options.get("shared", ".attnbench/slurm")).resolve()
    return Wishes(
        kinds=_kinds(options, device, together),
        arguments=_arguments(options),
        interpreter=_interpreter(options, shared),
        setup=options.get("setup", ""),
        shared=shared,
        poll_s=_seconds(options, "poll", _POLL_S),
        patience_s=_seconds(options, "patience", _PATIENCE_S),
    )


def script(wanted: Wishes, folder: Path, kind: str) -> str:
    """Return the batch script of the tasks of one kind."""
    command = [*wanted.interpreter, "-m", "bench.slurm.task", str(folder), kind]
    lines = [
        "#!/bin/bash",
        f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]
    if wanted.setup:
        lines.append(wanted.setup)
    # the task takes the place of the shell, so that Slurm's signals reach it
    lines.append(f"exec {shlex.join(command)}")
    return "\n".join(lines) + "\n"


def _kinds(options: Mapping[str, str], device: DeviceKind, together: int) -> tuple[Kind, ...]:
    option = "gpus" if device == "cuda" else "tasks"
    each = together if device == "cuda" else 1
    asked = options.get(option, str(each))
    found: list[Kind] = []
    for word in asked.split(","):
        match = _KIND.fullmatch(word.strip())
        if match is None:
            raise ValueError(
                f"--{option} {asked}: give numbers, or names and numbers such as h100:4,a100:8"
            )
        name, count = match["name"], int(match["count"])
        if count % each:
            raise ValueError(
                f"--{option} {asked}: {count} cannot be put into groups of {each} (--together)"
            )
        request = (f"--gres=gpu:{name}:{each}" if name else f"--gres=gpu:{each}",)
        if device == "cpu":
            request = (f"--constraint={_features(name, options)}",) if name else ()
        found.append(Kind(name=name or "any", count=count // each, request=request))
    names = [kind.name for kind in found]
    if len(set(names)) != len(names):
        raise ValueError(f"--{option} {asked}: name every kind once")
    return tuple(found)


def _features(name: str, options: Mapping[str, str]) -> str:
    more = options.get("constraint")
    return name if more is None else f"{name}&({more})"


def _arguments(options: Mapping[str, str]) -> tuple[str, ...]:
    found = ["--nodes=1", "--ntasks=1", "--requeue", "--open-mode=append", f"--chdir={ROOT}"]
    for option, argument in (
        ("partition", "partition"),
        ("constraint", "constraint"),
        ("time", "time"),
        ("cpus", "cpus-per-task"),
    ):
        if option in options:
            found.append(f"--{argument}={options[option]}")
    if "exclusive" in options:
        found.append("--exclusive")
    return (*found, *shlex.split(options.get("sbatch", "")))


def _interpreter(options: Mapping[str, str], shared: Path) -> tuple[str, ...]:
    if "venv" in options:
        return (str(Path(options["venv"]).resolve() / "bin" / "python"),)
    if "container" in options:
        binds = [word for path in (ROOT, shared) for word in ("--bind", str(path))]
        return ("apptainer", "exec", "--nv", *binds, options["container"], "python")
    return (sys.executable,)


def _seconds(options: Mapping[str, str], name: str, default: float) -> float:
    given = options.get(name)
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--{name} {given}: give seconds, more than 0")
    return seconds
