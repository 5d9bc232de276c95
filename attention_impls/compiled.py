"""The `compile` backend that every variant has: torch.compile of the reference.

The whole layer becomes one graph with static shapes. Nothing falls back silently: a graph break and
too many recompilations are errors, and a missing compiler is a reason given before anything runs.
"""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from attention_impls.spec import Backend, DType, Execution, Tolerance

TOLERANCE: dict[DType, Tolerance] = {
    "float32": Tolerance(absolute=1e-4, relative=1e-3),
    "bfloat16": Tolerance(absolute=2e-2, relative=1e-1),
    "float16": Tolerance(absolute=4e-3, relative=5e-2),
}
"""What reordering may do to the mechanisms whose inverse amplifies rounding; half the way from a
well-conditioned backend's tolerance to that of a reference itself."""

_LEAST_CAPABILITY = (7, 0)


class Compiled(nn.Module):
    """A module run through torch.compile; the parameters are the very same objects."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.run = torch.compile(_with_own_code(module), dynamic=False, fullgraph=True)

    def forward(self, *inputs: Any) -> Tensor:
        """Call the compiled module; the first call with new sizes compiles."""
        return self.run(*inputs)


def _with_own_code(module: nn.Module) -> Callable[..., Tensor]:
    """Return a function that calls `module` and shares its code object with no other.

    Compiled code is kept, and recompilations are counted, per code object. Without this all modules
    of a class would share eight entries: a process that measures many shapes would be stopped by
    the ninth, and each call would search the entries of modules long gone.
    """

    def run(*inputs: Any) -> Tensor:
        return module(*inputs)

    return FunctionType(
        run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__
    )


def unsupported(execution: Execution) -> tuple[str, ...]:
    """Return what the compiler needs and this machine lacks."""
    reasons: list[str] = []
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        reasons.append("torch.compile needs Python's headers (Python.h); install them")
    if execution.device == "cpu":
        if not _finds("CXX", "g++", "clang++", "c++"):
            reasons.append("torch.compile on CPU needs a C++ compiler; install g++ or clang")
        return tuple(reasons)
    if importlib.util.find_spec("triton") is None:
        reasons.append("torch.compile on CUDA needs the package triton, which is not installed")
    if not _finds("CC", "gcc", "clang", "cc"):
        reasons.append("torch.compile on CUDA needs a C compiler; install gcc or clang")
    if not torch.cuda.is_available():
        reasons.append("no CUDA device")
    elif (capability := torch.cuda.get_device_capability()) < _LEAST_CAPABILITY:
        reasons.append(
            f"torch.compile needs a GPU of compute capability 7.0, "
            f"got {capability[0]}.{capability[1]}"
        )
    return tuple(reasons)


def _finds(variable: str, *names: str) -> bool:
    chosen = os.environ.get(variable)
    return any(map(shutil.which, (chosen.split()[0],) if chosen else names))


def compile_backend(variant: str) -> Backend:
    """Return the backend that runs `variant` through torch.compile with static shapes."""
    return Backend(
        variant=variant,
        name="compile",
        title="torch.compile",
        requires=(),
        unsupported=unsupported,
        adopt=Compiled,
        tolerance=TOLERANCE,
        executed=lambda execution: (
            f"torch.compile, inductor ({'C++' if execution.device == 'cpu' else 'triton'})"
        ),
    )
