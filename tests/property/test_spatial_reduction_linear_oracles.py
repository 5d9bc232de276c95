"""spatial_reduction_linear against one cell and one query at a time."""

import math

import pytest
import torch
from property.grid_oracles import filled, inputs
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import Grid, load
from attention_impls.variants.spatial_reduction_linear import SpatialReductionLinearOptions

SPEC = load("spatial_reduction_linear")
HEADS, WIDTH = 2, 3
CHANNELS = HEADS * WIDTH


def attended(layer: nn.Module, x: Tensor, reduced: Tensor) -> Tensor:
    """Softmax attention from tokens to `reduced`, head by head."""
    weights, biases = layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3)
    q, k, v = (t @ w.T + b for t, w, b in zip((x, reduced, reduced), weights, biases, strict=True))
    heads = []
    for h in range(HEADS):
        own = slice(h * WIDTH, (h + 1) * WIDTH)
        scores = q[..., own] @ k[..., own].mT / WIDTH**0.5
        heads.append(scores.softmax(-1) @ v[..., own])
    return torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias


def cells(layer: nn.Module, x: Tensor, grid: Grid, side: int, *, activation: bool = True) -> Tensor:
    """R, cell by cell: a cell takes in every row and column that it touches."""
    image = x.unflatten(1, (grid.height, grid.width))
    linear, norm = layer.reduce.linear, layer.reduce.norm

    def touched(number: int, length: int) -> slice:
        return slice(number * length // side, math.ceil((number + 1) * length / side))

    found = []
    for row in range(side):
        for column in range(side):
            own = image[:, touched(row, grid.height), touched(column, grid.width)]
            mean = own.flatten(1, 2).mean(1) @ linear.weight.T + linear.bias
            normed = F.layer_norm(mean, (CHANNELS,), norm.weight, norm.bias)
            found.append(F.gelu(normed) if activation else normed)
    return torch.stack(found, 1)


@pytest.mark.parametrize("side", [1, 3, 7])
@pytest.mark.parametrize("grid", [Grid(9, 6), Grid(7, 7), Grid(2, 5), Grid(1, 11)], ids=str)
def test_equals_one_cell_at_a_time(grid: Grid, side: int) -> None:
    options = SpatialReductionLinearOptions(pooled_side=side)
    layer = filled(SPEC, grid, HEADS, WIDTH, options)
    x = inputs(grid, HEADS, WIDTH)[3]
    want = attended(layer, x, cells(layer, x, grid, side))
    assert_close(layer(x, grid), want, rtol=1e-10, atol=1e-12)
    wrong = attended(layer, x, cells(layer, x, grid, side, activation=False))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(layer(x, grid), wrong)


def test_a_map_of_the_pooled_size_keeps_every_token() -> None:
    grid = Grid(7, 7)
    layer = filled(SPEC, grid, HEADS, WIDTH, SpatialReductionLinearOptions())
    x = inputs(grid, HEADS, WIDTH)[3]
    reduce = layer.reduce
    assert_close(reduce(x.unflatten(1, (7, 7))), F.gelu(reduce.norm(reduce.linear(x))))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="pooled_side is 0"):
        SpatialReductionLinearOptions(pooled_side=0)
