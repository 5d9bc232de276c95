"""What the oracles of mechanisms on grids share: places, inputs, and dense attention by a mask."""

from typing import Any

import torch
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from bench.stimulus import fill_parameters, normal


def places(grid: Grid) -> tuple[Tensor, Tensor]:
    """Row and column of each token."""
    index = torch.arange(grid.tokens)
    return index // grid.width, index % grid.width


def inputs(grid: Grid, heads: int, head_dim: int, batch: int = 2) -> list[Tensor]:
    """q, k, v, x in float64."""
    sizes = (batch, heads, grid.tokens, head_dim)
    x = normal("x", (batch, grid.tokens, heads * head_dim), dtype=torch.float64)
    return [*(normal(name, sizes, dtype=torch.float64) for name in "qkv"), x]


def filled(
    spec: AttentionSpec, grid: Grid, heads: int, head_dim: int, options: Any, batch: int = 2
) -> nn.Module:
    """A float64 layer with weights that are all of a size that matters."""
    layer = spec.build(AttentionShape(batch, grid, heads, head_dim), options)
    fill_parameters(layer)
    return layer.double().eval().requires_grad_(requires_grad=False)


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention over the N x N matrix, weights of invisible pairs taken out."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores = scores if bias is None else scores + bias
    weights = scores.exp() * visible
    return weights / weights.sum(-1, keepdim=True) @ v
