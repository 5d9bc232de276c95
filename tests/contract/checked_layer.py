"""Layers, shapes and inputs that the checks share; layers are built once a session."""

from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from bench.alternatives import close_up
from bench.stimulus import workload_inputs
from bench.vector import built

MAIN = AttentionShape(batch=2, grid=Grid(10, 8), heads=2, head_dim=4)
"""More tokens than the usual number of landmarks, not square, two batch items, two heads."""
OTHERS = tuple(
    AttentionShape(batch=batch, grid=Grid(height, width), heads=heads, head_dim=head_dim)
    for batch, height, width, heads, head_dim in (
        (1, 14, 14, 3, 8),
        (3, 9, 9, 1, 16),
        (2, 16, 16, 2, 8),
        (1, 1, 96, 2, 4),
    )
)
AWKWARD = tuple(
    replace(MAIN, grid=Grid(height, width), extra_tokens=extra)
    for height, width in (
        (1, 1),
        (1, 2),
        (2, 7),
        (7, 2),
        (1, 13),
        (13, 1),
        (3, 3),
        (5, 11),
        (17, 4),
    )
    for extra in (0, 1, 3)
)
"""Shapes that a careless reshape gets wrong."""

WIDE = AttentionShape(batch=1, grid=Grid(10, 8), heads=2, head_dim=64)
"""The usual width of a head, for what is said of attention matrices: a row of rectified features
of four channels is often all zero, one of 64 never."""

Switch = tuple[str, object, object]
LOCAL_BRANCHES: tuple[Switch, ...] = (
    ("local_residual", True, False),
    ("local_size", ..., 0),
    ("conv_size", ..., 0),
    ("aggregation_size", ..., 0),
)
"""Options that add a term, or further heads, beside the attention matrix, the values they have
then, and the value that removes it."""
EXACT_GRADIENTS: tuple[Switch, ...] = (
    ("inverse_gradient", "implicit", "unrolled"),
    ("epsilon", None, 0.0),
    ("estimator", "hashes", "expectation"),
)
"""Options whose published backward pass is not the derivative of the forward pass (an inverse taken
as exact; a detached stabiliser, which cancels but for epsilon; samples, whose expectation is
differentiated), and the value that makes it so."""

GENEROUS: tuple[Switch, ...] = (("features", ..., 8192), ("epsilon", None, 0.0))
"""Options that buy a better approximation: random features come near what they estimate slowly."""


def with_options(options: Any, switches: tuple[Switch, ...]) -> Any:
    """Set the fields that these options have; a value that the options refuse stays as it is."""
    for name, before, after in switches:
        if hasattr(options, name) and before in (..., getattr(options, name)):
            with suppress(ValueError):
                options = replace(options, **{name: after})
    return options


def closer(spec: AttentionSpec) -> AttentionSpec:
    """`spec` with windows, blocks and buckets that do not hold the contract's whole sequences."""
    small = close_up(spec.options)
    return spec if small == spec.options else replace(spec, options=small)


@cache
def layer(
    spec: AttentionSpec,
    shape: AttentionShape,
    options: Any = None,
    dtype: torch.dtype = torch.float64,
) -> nn.Module:
    """The shared layer of a spec; checks must leave it as it is."""
    return built(spec, shape, options).to(dtype)


def stream(shape: AttentionShape, *, call: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """The layer's input of a call."""
    return workload_inputs(shape, "layer", call=call, dtype=dtype)[0]


def core(
    module: nn.Module, shape: AttentionShape, *, call: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """q, k, v, x of a call, with k = q where the mechanism has one stream for both."""
    one = getattr(module, "streams", "qkv") == "qv"
    return workload_inputs(shape, "core", call=call, keys_are_queries=one, dtype=dtype)


def computed(spec: AttentionSpec, shapes: tuple[AttentionShape, ...]) -> list[AttentionShape]:
    """Those of `shapes` that the defaults compute; a variant that computes none is no variant."""
    found = [shape for shape in shapes if not spec.unsupported(shape)]
    assert found, f"refuses every shape of the contract: {', '.join(map(str, shapes))}"
    return found


def home(spec: AttentionSpec) -> AttentionShape:
    """The first shape of the contract that the defaults compute."""
    return computed(spec, (MAIN, *OTHERS))[0]


def wide(spec: AttentionSpec) -> AttentionShape:
    """`WIDE`, or the square one for a mechanism of square grids alone."""
    return computed(spec, (WIDE, WIDE.with_grid(Grid(9, 9))))[0]


def distance(got: Tensor, want: Tensor) -> float:
    """Largest difference relative to the largest number; infinite where it is not a number."""
    error = (got.double() - want.double()).abs().max() / want.double().abs().max()
    return error.item() if torch.isfinite(error) else float("inf")
