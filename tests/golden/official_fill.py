"""Weights and inputs derived from names and seeds alone, so that two programs can agree on them.

The recipe by which the expected outputs in this folder were made. Every parameter of a published
module is drawn from its own name, so neither a weights file nor a construction order matters.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Recipe = Literal["A", "B"]

_CONSTANT_TABLES = frozenset({
    "relative_position_index", "attn_mask", "num_batches_tracked", "relative_coords_table",
    "rotations", "angle", "projection_matrix",
})  # fmt: skip
_SMALL = re.compile(
    r"(absolute_)?pos_embed\d*|positional_encoding|relative_position_bias_table|cls_token"
    r"|dist_token|scale|power"
)
_NEAR_ONE = re.compile(r"temperature|gamma_?\d*|g")
INPUT_SEED = 1000
"""Seed of the first tensor argument of a published module; the next ones count up from it."""


def input_array(shape: tuple[int, ...], seed: int = INPUT_SEED) -> np.ndarray:
    """Return float32 N(0,1) numbers of `shape` that depend on shape and seed alone."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)


def fill(name: str, shape: tuple[int, ...], recipe: Recipe = "A") -> np.ndarray | None:
    """Return the float32 values of the parameter or buffer `name`; None: it keeps its own values.

    Args:
        name: full name inside the published module, e.g. `residual.0.weight`.
        shape: its shape.
        recipe: `B` shrinks SOFT's query normalisation, so that its Newton iteration is still far
            from converged; all else is as under `A`.
    """
    leaf = name.rpartition(".")[2]
    if leaf in _CONSTANT_TABLES:
        return None
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 2**63
    z = input_array(tuple(shape), seed)
    if leaf == "running_var":
        return np.abs(z) * np.float32(0.1) + np.float32(1.0)
    spread, centre = _spread_and_centre(name, leaf, tuple(shape), recipe)
    return z * np.float32(spread) + np.float32(centre)


def fill_all(shapes: Mapping[str, tuple[int, ...]], recipe: Recipe = "A") -> dict[str, Tensor]:
    """Return a published state dict, without the tables that keep their own values."""
    filled = {name: fill(name, shape, recipe) for name, shape in shapes.items()}
    return {name: torch.from_numpy(values) for name, values in filled.items() if values is not None}


def _spread_and_centre(
    name: str, leaf: str, shape: tuple[int, ...], recipe: Recipe
) -> tuple[float, float]:
    if leaf == "running_mean":
        return 0.1, 0.0
    if leaf.endswith("bias") or _SMALL.fullmatch(leaf):
        return 0.02, 0.0
    if _NEAR_ONE.fullmatch(leaf):
        return 0.1, 1.0
    if len(shape) <= 1:
        halved = recipe == "B" and name.endswith("Qnorm_act.0.weight")
        return (0.045, 0.45) if halved else (0.1, 1.0)
    return 1.0 / math.sqrt(math.prod(shape[1:])), 0.0
