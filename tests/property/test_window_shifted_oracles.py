"""window_shifted against dense attention whose mask follows from the places of the tokens."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property.grid_oracles import filled, inputs, masked_attention, places
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.window_shifted import WindowShiftedOptions

SPEC = load("window_shifted")
HEADS, WIDTH = 2, 3


def same_window(grid: Grid, window: int, shifted: bool) -> Tensor:
    """Windows begin at multiples of `window`, moved by half of one where there are several."""
    visible = torch.ones(grid.tokens, grid.tokens, dtype=torch.bool)
    for place, length in zip(places(grid), (grid.height, grid.width), strict=True):
        moved = window // 2 if shifted and length > window else 0
        number = torch.div(place - moved, window, rounding_mode="floor")
        visible &= number[:, None] == number[None, :]
    return visible


def bias(table: Tensor, grid: Grid, window: int) -> Tensor:
    """b for every pair of tokens, 0 where they are too far apart to share a window."""
    square = table.T.unflatten(1, (2 * window - 1, -1))
    out = torch.zeros(HEADS, grid.tokens, grid.tokens, dtype=table.dtype)
    rows, columns = (p.tolist() for p in places(grid))
    for i in range(grid.tokens):
        for j in range(grid.tokens):
            down, right = rows[i] - rows[j], columns[i] - columns[j]
            if max(abs(down), abs(right)) < window:
                out[:, i, j] = square[:, down + window - 1, right + window - 1]
    return out


def both(grid: Grid, options: WindowShiftedOptions) -> tuple[Tensor, Tensor]:
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    mix = filled(SPEC, grid, HEADS, WIDTH, options).mix
    added = None if mix.position_bias is None else bias(mix.position_bias, grid, options.window)
    visible = same_window(grid, options.window, options.shifted)
    return mix(q, k, v, x, grid), masked_attention(q, k, v, visible, added)


@settings(max_examples=25)
@given(
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    window=st.integers(1, 5),
    shifted=st.booleans(),
)
@example(height=8, width=7, window=4, shifted=True)
@example(height=7, width=2, window=3, shifted=True)
@example(height=1, width=8, window=3, shifted=True)
def test_equals_dense_attention_within_windows(
    height: int, width: int, window: int, shifted: bool
) -> None:
    got, want = both(Grid(height, width), WindowShiftedOptions(window=window, shifted=shifted))
    assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_without_a_position_bias_it_is_plain() -> None:
    got, want = both(Grid(6, 5), WindowShiftedOptions(window=3, position_bias=False))
    assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("grid", [Grid(6, 6), Grid(7, 5)], ids=str)
def test_the_other_shift_is_another_function(grid: Grid) -> None:
    options = WindowShiftedOptions(window=3)
    _, want = both(grid, options)
    got, _ = both(grid, replace(options, shifted=False))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, want)


def test_a_transposed_bias_is_another_function() -> None:
    grid, options = Grid(4, 6), WindowShiftedOptions(window=3)
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    mix = filled(SPEC, grid, HEADS, WIDTH, options).mix
    wrong = bias(mix.position_bias, grid, 3).mT
    visible = same_window(grid, 3, shifted=True)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, x, grid), masked_attention(q, k, v, visible, wrong))


def test_one_window_over_the_whole_grid_is_softmax_attention() -> None:
    grid = Grid(3, 5)
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    options = WindowShiftedOptions(window=5, position_bias=False)
    want = load("softmax").build(AttentionShape(2, grid, HEADS, WIDTH)).mix(q, k, v, x, grid)
    got = filled(SPEC, grid, HEADS, WIDTH, options).mix(q, k, v, x, grid)
    assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_a_layer_works_on_grids_smaller_and_larger_than_its_window() -> None:
    layer = filled(SPEC, Grid(10, 10), HEADS, WIDTH, WindowShiftedOptions(window=4))
    for grid in (Grid(2, 3), Grid(4, 4), Grid(11, 9)):
        fresh = filled(SPEC, grid, HEADS, WIDTH, WindowShiftedOptions(window=4))
        x = inputs(grid, HEADS, WIDTH)[3]
        assert_close(layer(x, grid), fresh(x, grid), rtol=1e-12, atol=1e-14)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="window is 0"):
        WindowShiftedOptions(window=0)
