"""spatial_reduction against one patch and one query at a time."""

import pytest
import torch
from property.grid_oracles import filled, inputs
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.spatial_reduction import SpatialReductionOptions

SPEC = load("spatial_reduction")
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


def patches(layer: nn.Module, x: Tensor, grid: Grid, side: int) -> Tensor:
    """R, patch by patch."""
    image = x.unflatten(1, (grid.height, grid.width))
    conv, norm = layer.reduce.conv, layer.reduce.norm
    found = []
    for row in range(grid.height // side):
        for column in range(grid.width // side):
            total = conv.bias.expand(x.shape[0], -1)
            for i in range(side):
                for j in range(side):
                    token = image[:, row * side + i, column * side + j]
                    total = total + token @ conv.weight[:, :, i, j].T
            found.append(F.layer_norm(total, (CHANNELS,), norm.weight, norm.bias))
    return torch.stack(found, 1)


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("grid", [Grid(4, 6), Grid(7, 5), Grid(3, 3)], ids=str)
def test_equals_one_patch_at_a_time(grid: Grid, side: int) -> None:
    layer = filled(SPEC, grid, HEADS, WIDTH, SpatialReductionOptions(reduction=side))
    x = inputs(grid, HEADS, WIDTH)[3]
    want = attended(layer, x, patches(layer, x, grid, side))
    assert_close(layer(x, grid), want, rtol=1e-10, atol=1e-12)
    without_norm = attended(layer, x, patches(layer, 2 * x, grid, side))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(layer(x, grid), without_norm)


def test_reduction_1_is_softmax_attention() -> None:
    grid = Grid(3, 5)
    layer = filled(SPEC, grid, HEADS, WIDTH, SpatialReductionOptions(reduction=1))
    plain = load("softmax").build(AttentionShape(2, grid, HEADS, WIDTH)).double()
    plain.load_state_dict(layer.state_dict())
    x = inputs(grid, HEADS, WIDTH)[3]
    assert_close(layer(x, grid), plain(x, grid), rtol=1e-10, atol=1e-12)


def test_left_over_rows_and_columns_are_queries_alone() -> None:
    grid = Grid(5, 4)
    layer = filled(SPEC, grid, HEADS, WIDTH, SpatialReductionOptions(reduction=2))
    x = inputs(grid, HEADS, WIDTH)[3]
    changed = x.clone()
    changed[:, 16:] += 1
    assert_close(layer(x, grid)[:, :16], layer(changed, grid)[:, :16], rtol=0, atol=0)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(layer(x, grid)[:, 16:], layer(changed, grid)[:, 16:])


@pytest.mark.parametrize("grid", [Grid(1, 9), Grid(9, 1), Grid(1, 1)], ids=str)
def test_a_grid_without_a_patch_is_refused_at_build_and_call(grid: Grid) -> None:
    with pytest.raises(UnsupportedShape, match="use a smaller reduction"):
        SPEC.build(AttentionShape(2, grid, HEADS, WIDTH))
    layer = SPEC.build(AttentionShape(2, Grid(4, 4), HEADS, WIDTH))
    with pytest.raises(UnsupportedShape, match="use a smaller reduction"):
        layer(torch.zeros(2, grid.tokens, CHANNELS), grid)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="reduction is 0"):
        SpatialReductionOptions(reduction=0)
