"""cross_shaped_window against dense attention in stripes and a loop over the local encoding."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property.grid_oracles import filled, inputs, masked_attention, places
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.cross_shaped_window import CrossShapedWindowOptions

SPEC = load("cross_shaped_window")
WIDTH = 3
BARE = CrossShapedWindowOptions(stripe=2, local_residual=False)


def stripes(grid: Grid, stripe: int) -> tuple[Tensor, Tensor]:
    """Number of the upright and of the lying stripe of each token."""
    rows, columns = places(grid)
    wide, high = min(stripe, grid.width), min(stripe, grid.height)
    left, top = (wide - grid.width % wide) % wide // 2, (high - grid.height % high) % high // 2
    return (columns + left) // wide, (rows + top) // high


def same_stripe(grid: Grid, stripe: int, heads: int) -> Tensor:
    """[heads, N, N]: the first half of the heads, rounded up, is upright."""
    masks = [number[:, None] == number[None, :] for number in stripes(grid, stripe)]
    return torch.stack([masks[head >= (heads + 1) // 2] for head in range(heads)])


def local(v: Tensor, weight: Tensor, bias: Tensor, visible: Tensor, grid: Grid) -> Tensor:
    """3x3 depthwise convolution that sees tokens of the same stripe alone."""
    batch, heads, tokens, width = v.shape
    filters = weight.view(heads, width, 3, 3)
    out = bias.view(1, heads, 1, width).expand(batch, heads, tokens, width).clone()
    rows, columns = (p.tolist() for p in places(grid))
    for i in range(tokens):
        for j in range(tokens):
            down, right = rows[j] - rows[i] + 1, columns[j] - columns[i] + 1
            if 0 <= down < 3 and 0 <= right < 3:
                seen = visible[:, i, j].double()[:, None]
                out[:, :, i] += seen * filters[:, :, down, right] * v[:, :, j]
    return out


def both(grid: Grid, heads: int, options: CrossShapedWindowOptions) -> tuple[Tensor, Tensor]:
    q, k, v, x = inputs(grid, heads, WIDTH)
    mix = filled(SPEC, grid, heads, WIDTH, options).mix
    visible = same_stripe(grid, options.stripe, heads)
    want = masked_attention(q, k, v, visible)
    if mix.local is not None:
        want = want + local(v, mix.local.weight, mix.local.bias, visible, grid)
    return mix(q, k, v, x, grid), want


@settings(max_examples=20)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    stripe=st.integers(1, 4),
    heads=st.integers(2, 3),
)
@example(height=7, width=5, stripe=4, heads=2)
def test_equals_dense_attention_within_stripes(
    height: int, width: int, stripe: int, heads: int
) -> None:
    got, want = both(Grid(height, width), heads, replace(BARE, stripe=stripe))
    assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("grid", [Grid(4, 6), Grid(5, 3), Grid(1, 5)], ids=str)
def test_the_local_encoding_ends_with_the_stripe(grid: Grid, heads: int) -> None:
    got, want = both(grid, heads, replace(BARE, local_residual=True))
    assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_a_local_encoding_across_stripes_is_another_function() -> None:
    grid, options = Grid(4, 6), replace(BARE, local_residual=True)
    q, k, v, x = inputs(grid, 2, WIDTH)
    mix = filled(SPEC, grid, 2, WIDTH, options).mix
    visible = same_stripe(grid, 2, 2)
    everywhere = local(v, mix.local.weight, mix.local.bias, torch.ones_like(visible), grid)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, x, grid), masked_attention(q, k, v, visible) + everywhere)


def test_directions_exchanged_is_another_function() -> None:
    grid = Grid(4, 6)
    q, k, v, _ = inputs(grid, 2, WIDTH)
    got, _ = both(grid, 2, BARE)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, masked_attention(q, k, v, same_stripe(grid, 2, 2).flip(0)))


def test_the_whole_grid_is_softmax_attention() -> None:
    grid = Grid(3, 5)
    q, k, v, x = inputs(grid, 2, WIDTH)
    want = load("softmax").build(AttentionShape(2, grid, 2, WIDTH)).mix(q, k, v, x, grid)
    for options in (replace(BARE, stripe=5), replace(BARE, whole_grid=True)):
        got = filled(SPEC, grid, 2, WIDTH, options).mix(q, k, v, x, grid)
        assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_one_head_is_refused_unless_it_sees_the_whole_grid() -> None:
    shape = AttentionShape(1, Grid(4, 4), 1, WIDTH)
    with pytest.raises(UnsupportedShape, match="use heads >= 2"):
        SPEC.build(shape, BARE)
    assert SPEC.unsupported(shape, replace(BARE, whole_grid=True)) == ()


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="stripe is 0"):
        CrossShapedWindowOptions(stripe=0)
