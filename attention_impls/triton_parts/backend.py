"""How a backend named `triton` is registered: what it wraps, and the reasons why it cannot run."""

import copy
import os
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from attention_impls.multihead import FunctionMix, MultiHead
from attention_impls.spec import Backend, DType, Execution, Tolerance

TOLERANCE: dict[DType, Tolerance] = {
    "float32": Tolerance(absolute=1e-5, relative=1e-4),
    "bfloat16": Tolerance(absolute=2e-2, relative=3e-2),
    "float16": Tolerance(absolute=4e-3, relative=6e-3),
}
"""As for the other fused backends: sums are float32, operands of products have the case's dtype."""

WIDTHS_OF_HEADS = (16, 128)
"""Smallest and largest head_dim: below, a tensor core has nothing to do; above, the state of a head
no longer fits into the registers of one program."""
_LEAST_CAPABILITY = (8, 0)
_SHARED_KIB = 99
_SHARED_KIB_WIDE = 163
_NARROW = 64
_VARIABLE = "TRITON_INTERPRET"


def interpreted() -> bool:
    """Whether kernels imported from now on run under Triton's interpreter, on the CPU."""
    return os.environ.get(_VARIABLE, "").lower() in ("1", "true", "on", "yes", "y")


def unsupported(execution: Execution) -> tuple[str, ...]:
    """Return the reasons that every Triton backend has; a missing package is `requires`."""
    reasons: list[str] = []
    least, most = WIDTHS_OF_HEADS
    if not least <= execution.shape.head_dim <= most:
        reasons.append(
            f"Triton kernels cover head_dim {least} to {most}, got {execution.shape.head_dim}: "
            "use the reference"
        )
    if execution.dtype not in TOLERANCE:
        reasons.append(
            f"Triton kernels cover {', '.join(TOLERANCE)}, got {execution.dtype}: use the reference"
        )
    if execution.device == "cpu":
        if not interpreted():
            reasons.append(
                "Triton kernels need a CUDA device; on a CPU they run only under Triton's "
                f"interpreter, for tests: {_VARIABLE}=1"
            )
        return tuple(reasons)
    if interpreted():
        reasons.append(f"{_VARIABLE} is set, so nothing would run on the GPU: unset it")
    if not torch.cuda.is_available():
        reasons.append("no CUDA device")
    elif (capability := torch.cuda.get_device_capability()) < _LEAST_CAPABILITY:
        reasons.append(
            "Triton kernels need a GPU of compute capability 8.0, "
            f"got {capability[0]}.{capability[1]}"
        )
    elif (has := _shared_memory()) < (needed := shared_memory(execution)):
        reasons.append(
            f"Triton kernels for {execution.dtype} and head_dim {execution.shape.head_dim} need "
            f"{needed} bytes of shared memory a block, this GPU has {has}: use the reference"
        )
    return tuple(reasons)


def shared_memory(execution: Execution) -> int:
    """Bytes of shared memory that no kernel exceeds; tests hold the compiled kernels to it."""
    return 1024 * (_SHARED_KIB if execution.shape.head_dim <= _NARROW else _SHARED_KIB_WIDE)


def _shared_memory() -> int:
    return torch.cuda.get_device_properties().shared_memory_per_block_optin


def no_causal_form(execution: Execution) -> tuple[str, ...]:
    """Return the reason of kernels that sum over all tokens, for a causal shape."""
    if execution.shape.causal:
        return ("these Triton kernels have no causal form: use the reference",)
    return ()


def bound_options(mix: nn.Module) -> dict[str, Any]:
    """Return what a variant without parameters has bound to the function of its `FunctionMix`."""
    function = mix.function if isinstance(mix, FunctionMix) else None
    return dict(function.keywords) if isinstance(function, partial) else {}


def triton_backend(
    variant: str,
    wrap: Callable[[nn.Module], nn.Module],
    *,
    limits: Callable[[Execution], tuple[str, ...]] = no_causal_form,
) -> Backend:
    """Return the backend `triton` of `variant`.

    Args:
        variant: name of the variant.
        wrap: makes the mix that launches kernels from the reference's (whose parameters it keeps).
        limits: reasons of this variant beyond those of `unsupported`.
    """

    def adopt(layer: nn.Module) -> nn.Module:
        mix = getattr(layer, "mix", None)
        if not isinstance(layer, MultiHead) or not _is_of(variant, cast("nn.Module", mix)):
            raise TypeError(
                f"backend triton: got {type(layer).__name__}, must be a MultiHead layer whose mix "
                f"is that of variant {variant}"
            )
        # a copy of the modules around the very same parameters and buffers
        kept = (*layer.parameters(), *layer.buffers())
        adopted = copy.deepcopy(layer, {id(tensor): tensor for tensor in kept})
        adopted.mix = wrap(cast("nn.Module", adopted.mix))
        return adopted

    return Backend(
        variant=variant,
        name="triton",
        title="Triton",
        requires=("triton",),
        unsupported=lambda execution: (*unsupported(execution), *limits(execution)),
        adopt=adopt,
        tolerance=TOLERANCE,
        executed=_executed,
    )


def _is_of(variant: str, mix: nn.Module) -> bool:
    """Whether a mix is the variant's: by the file that defines a class of it, or its function."""
    owners: list[Any] = [type(module) for module in mix.modules()]
    if isinstance(mix, FunctionMix):
        function: Any = mix.function
        owners = [function.func if isinstance(function, partial) else function]
    return any(owner.__module__ == f"attention_impls.variants.{variant}" for owner in owners)


def _executed(execution: Execution) -> str:
    products = "3xTF32" if execution.dtype == "float32" else execution.dtype
    where = "Triton's interpreter" if interpreted() else "Triton"
    return f"{where}, products of {products}, sums of float32"
