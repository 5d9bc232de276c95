"""Compiles the kernels of Triton backends for a GPU that is not there, and reports their sizes.

Needs no GPU and no driver: Triton's compiler and the assembler that it carries do. Run in a process
of its own, without TRITON_INTERPRET: `python -m contract.triton_compiled VARIANT DTYPE HEAD_DIM`,
with names of SHAPES after it for other sizes: a size of 1 is compiled as a constant. Several
variants stand apart by commas.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from attention_impls import AttentionShape, Grid, load
from attention_impls.registry import load_backend
from attention_impls.triton_parts import layout

HOPPER = GPUTarget("cuda", 90, 32)
SHAPES = {
    "split": (AttentionShape(1, Grid(16, 16), 2, 1), 4),
    "one head, one program": (AttentionShape(3, Grid(1, 200), 1, 1), 1),
    "one column": (AttentionShape(1, Grid(9, 1), 1, 1), 1),
    "one token": (AttentionShape(1, Grid(1, 1), 2, 1), 4),
}
"""Shapes, whose head_dim is replaced, and multiprocessors of the GPU that is not there."""


class Absent:
    """What Triton's compiler asks a driver for, of a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise AssertionError("nothing is timed without a GPU")


def usage(cubin: bytes) -> dict[str, int]:
    """Registers a thread, and bytes on its stack (spilled registers)."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found, said
    return {"registers": int(found[1]), "stack_bytes": int(found[2])}


def compiled(
    variant: str, dtype: torch.dtype, head_dim: int, sizes: str
) -> dict[str, dict[str, int]]:
    """Compile every kernel that a forward and a backward pass launch; sizes by name."""
    found: dict[str, dict[str, int]] = {}

    def only_compile(kernel: JITFunction[Any], grid: Any) -> Any:
        def warm(*arguments: Any, **sizes: Any) -> None:
            made = kernel.warmup(*arguments, grid=grid, **sizes)
            name = kernel.fn.__name__
            found[name] = {"shared_bytes": made.metadata.shared, **usage(made.asm["cubin"])}

        return warm

    JITFunction.__getitem__ = only_compile
    driver.set_active(Absent())
    few, layout._INTERPRETED_MULTIPROCESSORS = SHAPES[sizes]  # pyright: ignore[reportPrivateUsage]
    layout._multiprocessors.cache_clear()  # pyright: ignore[reportPrivateUsage]
    shape = replace(few, head_dim=head_dim)
    layer = load(variant).build(shape).to(dtype)
    adopted = load_backend(variant, "triton").adopt(layer)
    x = torch.zeros(shape.batch, shape.tokens, shape.channels, dtype=dtype, requires_grad=True)
    adopted(x, shape.grid).sum().backward()
    return found


if __name__ == "__main__":
    asked = SimpleNamespace(variant=sys.argv[1], dtype=sys.argv[2], head_dim=int(sys.argv[3]))
    for one in asked.variant.split(","):
        for name in sys.argv[4:] or ["split"]:
            found = compiled(one, getattr(torch, asked.dtype), asked.head_dim, name)
            sys.stdout.write(json.dumps(found) + "\n")
