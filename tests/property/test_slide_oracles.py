"""slide against mixtures of neighbours formed one at a time."""

import pytest
import torch
from property.grid_oracles import filled, inputs, masked_attention, places
from torch import Tensor, nn
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.slide import SlideOptions

SPEC = load("slide")
HEADS, WIDTH = 2, 3


def mixtures(heads: Tensor, mix: nn.Module, grid: Grid, window: int) -> Tensor:
    """k_ia: [batch, heads, tokens, outputs, head_dim]."""
    outputs, reach = window**2, window // 2
    weight = mix.mixtures.weight.view(WIDTH, outputs, window, window)
    bias = mix.mixtures.bias.view(WIDTH, outputs)
    batch, count, tokens, _ = heads.shape
    found = bias.T.expand(batch, count, tokens, outputs, WIDTH).clone()
    for i in range(tokens):
        row, column = i // grid.width, i % grid.width
        for down in range(window):
            for right in range(window):
                r, c = row + down - reach, column + right - reach
                if 0 <= r < grid.height and 0 <= c < grid.width:
                    neighbour = heads[:, :, r * grid.width + c]
                    found[:, :, i] += weight[:, :, down, right].T * neighbour.unsqueeze(2)
    return found


def reference(q: Tensor, k: Tensor, v: Tensor, mix: nn.Module, grid: Grid, window: int) -> Tensor:
    keys, values = (mixtures(t, mix, grid, window) for t in (k, v))
    keys = keys + mix.position_bias.view(1, HEADS, 1, -1, 1)
    weights = ((q.unsqueeze(3) * keys).sum(-1) / WIDTH**0.5).softmax(-1)
    return (weights.unsqueeze(4) * values).sum(3)


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("grid", [Grid(4, 5), Grid(1, 6), Grid(3, 1)], ids=str)
def test_equals_mixtures_formed_one_at_a_time(grid: Grid, window: int) -> None:
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    mix = filled(SPEC, grid, HEADS, WIDTH, SlideOptions(window=window)).mix
    want = reference(q, k, v, mix, grid, window)
    assert_close(mix(q, k, v, x, grid), want, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_a_bias_of_another_head_is_another_function() -> None:
    grid = Grid(4, 5)
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    mix = filled(SPEC, grid, HEADS, WIDTH, SlideOptions()).mix
    want = reference(q, k, v, mix, grid, 3)
    mix.position_bias.copy_(mix.position_bias.flip(0))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, x, grid), want)


@torch.no_grad()
def test_a_pure_shift_is_local_attention_with_zeros_beyond_the_border() -> None:
    """Inside, where all neighbours exist, it is attention to the nine tokens around."""
    grid = Grid(5, 6)
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    mix = filled(SPEC, grid, HEADS, WIDTH, SlideOptions()).mix
    for parameter in mix.parameters():
        parameter.zero_()
    mix.mixtures.weight.copy_(torch.eye(9).view(9, 1, 3, 3).repeat(WIDTH, 1, 1, 1))
    rows, columns = places(grid)
    near = (rows[:, None] - rows).abs().le(1) & (columns[:, None] - columns).abs().le(1)
    inside = near.sum(1) == 9
    got, want = mix(q, k, v, x, grid), masked_attention(q, k, v, near)
    assert_close(got[:, :, inside], want[:, :, inside], rtol=1e-10, atol=1e-12)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got[:, :, ~inside], want[:, :, ~inside])


def test_filters_start_near_a_shift() -> None:
    mix = SPEC.build(AttentionShape(1, Grid(4, 4), HEADS, WIDTH)).mix
    noise = mix.mixtures.weight - torch.eye(9).view(9, 1, 3, 3).repeat(WIDTH, 1, 1, 1)
    assert noise.abs().max() <= 1 / 3
    assert mix.mixtures.weight.amax((1, 2, 3)).min() > 0.6


@pytest.mark.parametrize("window", [0, 2])
def test_options_out_of_range_are_refused(window: int) -> None:
    with pytest.raises(ValueError, match="must be odd"):
        SlideOptions(window=window)
