"""Published checkpoint files, read without executing anything in them.

`.safetensors`, and what `torch.save` writes (`.pth`, `.pth.tar`, `.pt`, `.bin`, `.ckpt`) through
torch's weights-only reader, which builds tensors and plain containers and refuses everything else.
Training code stores its settings beside the weights; the few classes that they come in are read as
inert containers and thrown away.
"""

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bench import safetensors

FOLDERS = ("model", "state_dict", "model_state", "module")
"""Where the authors' training code puts the parameters, in this order."""
AVERAGED = ("model_ema", "state_dict_ema", "ema")
"""Where it puts their running average."""
PARALLEL = "module."
"""Put before every name by data-parallel training."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; names the file, and the entry where there is one."""


class Inert(dict[Any, Any]):
    """Stands for an object of training code that is not wanted: keeps nothing, does nothing."""

    def __init__(self, *_arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, _state: Any) -> None:
        """Forget."""


INERT = (
    "argparse.Namespace",
    "yacs.config.CfgNode",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.dtypes.Float64DType",
    "_codecs.encode",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib.Path",
)
"""Names under which settings and scores occur in published files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The parameters of one file."""

    path: Path
    sha256: str
    """Digest of the whole file."""
    entry: str
    """Where in the file they were; empty: at its top."""
    parameters: dict[str, Tensor]
    text: dict[str, str]
    """What a safetensors file says about itself."""


def read_checkpoint(path: Path, *, averaged: bool = False) -> Checkpoint:
    """Read the parameters of a published file.

    Args:
        path: the file.
        averaged: take the running average of the parameters instead of their last values.

    Raises:
        CheckpointError: unreadable, cut off, not a checkpoint, or one that only arbitrary code
            could load; nothing in it was executed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    text: dict[str, str] = {}
    if path.suffix == ".safetensors":
        try:
            stored = safetensors.read(path)
        except safetensors.WrongFormatError as error:
            raise CheckpointError(str(error)) from error
        loaded, text = dict(stored.tensors), stored.text
    else:
        loaded = _unpickled(path)
    entry, parameters = _parameters(path, loaded, averaged=averaged)
    return Checkpoint(
        path=path,
        sha256=file_sha256(path),
        entry=entry,
        parameters=_checked(path, parameters),
        text=text,
    )


def file_sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpickled(path: Path) -> Any:
    allowed = cast("list[Any]", [(Inert, name) for name in INERT])
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because reading it could execute code: {_first_line(error)}. "
            "Nothing was executed. Ask its author for the parameters alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint, or cut off: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "Unsupported" in line]
    lines += [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]


def _parameters(path: Path, loaded: Any, *, averaged: bool) -> tuple[str, Mapping[Any, Any]]:
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, must hold parameters")
    found = cast("dict[Any, Any]", loaded)
    names = AVERAGED if averaged else FOLDERS
    for name in names:
        if isinstance(found.get(name), dict):
            return name, found[name]
    if averaged:
        raise CheckpointError(f"{path}: has no averaged parameters ({', '.join(AVERAGED)})")
    for name in AVERAGED:
        if isinstance(found.get(name), dict):
            raise CheckpointError(
                f"{path}: holds averaged parameters alone, as {name}; take them with --averaged"
            )
    return "", found


def _checked(path: Path, parameters: Mapping[Any, Any]) -> dict[str, Tensor]:
    names = list(parameters)
    if not names:
        raise CheckpointError(f"{path}: holds no parameters")
    for name, value in parameters.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, no tensor")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {name} has values that are not finite (NaN, infinity)")
    prefix = PARALLEL if all(name.startswith(PARALLEL) for name in names) else ""
    return {name.removeprefix(prefix): value.clone() for name, value in parameters.items()}
