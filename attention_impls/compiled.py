"""The `compile` backend that every variant has: torch.compile of the reference."""

import shutil

import torch
from torch import nn

from attention_impls.spec import Backend, Execution, Tolerance


def _unsupported(execution: Execution) -> tuple[str, ...]:
    if execution.device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return ("torch.compile on CPU needs a C++ compiler; install g++ or clang",)
    return ()


def _adopt(module: nn.Module) -> nn.Module:
    return torch.compile(module, dynamic=False)


def compile_backend(variant: str) -> Backend:
    """Return the backend that runs `variant` through torch.compile with static shapes."""
    return Backend(
        variant=variant,
        name="compile",
        title="torch.compile",
        requires=(),
        unsupported=_unsupported,
        adopt=_adopt,
        tolerance={
            "float32": Tolerance(absolute=1e-5, relative=1e-4),
            "bfloat16": Tolerance(absolute=2e-2, relative=3e-2),
            "float16": Tolerance(absolute=4e-3, relative=6e-3),
        },
    )
