"""neighborhood against dense attention whose mask is built token by token."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property.grid_oracles import filled, inputs, masked_attention
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.neighborhood import NeighborhoodOptions

SPEC = load("neighborhood")
HEADS, WIDTH = 2, 3


def along(length: int, window: int, dilation: int) -> dict[int, list[int]]:
    """Neighbours of each place on one side: `window` of its class, moved inside at the ends."""
    found: dict[int, list[int]] = {}
    for place in range(length):
        own = list(range(place % dilation, length, dilation))
        first = max(0, own.index(place) - window // 2)
        first = max(0, min(first, len(own) - window))
        found[place] = own[first : first + window]
    return found


def pairs(grid: Grid, options: NeighborhoodOptions, table: Tensor | None) -> tuple[Tensor, Tensor]:
    """[N, N] who sees whom, and [heads, N, N] the bias."""
    visible = torch.zeros(grid.tokens, grid.tokens)
    bias = torch.zeros(HEADS, grid.tokens, grid.tokens, dtype=torch.float64)
    dilation, reach = options.dilation, options.window - 1
    rows, columns = (along(n, options.window, dilation) for n in (grid.height, grid.width))
    for row, row_neighbours in rows.items():
        for column, column_neighbours in columns.items():
            i = row * grid.width + column
            for r in row_neighbours:
                for c in column_neighbours:
                    j = r * grid.width + c
                    visible[i, j] = 1
                    if table is not None:
                        down, right = (r - row) // dilation, (c - column) // dilation
                        bias[:, i, j] = table[:, down + reach, right + reach]
    return visible, bias


def both(grid: Grid, options: NeighborhoodOptions) -> tuple[Tensor, Tensor]:
    q, k, v, x = inputs(grid, HEADS, WIDTH, batch=1)
    mix = filled(SPEC, grid, HEADS, WIDTH, options).mix
    visible, bias = pairs(grid, options, mix.position_bias)
    return mix(q, k, v, x, grid), masked_attention(q, k, v, visible, bias)


@settings(max_examples=25)
@given(
    height=st.integers(1, 14),
    width=st.integers(1, 9),
    window=st.sampled_from((3, 5, 7)),
    dilation=st.integers(1, 3),
)
@example(height=14, width=8, window=7, dilation=1)
@example(height=17, width=2, window=5, dilation=2)
@example(height=2, width=25, window=3, dilation=3)
@example(height=1, width=19, window=7, dilation=1)
def test_equals_dense_attention_among_neighbours(
    height: int, width: int, window: int, dilation: int
) -> None:
    options = NeighborhoodOptions(window=window, dilation=dilation)
    got, want = both(Grid(height, width), options)
    assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dilation", [1, 2])
def test_every_token_has_as_many_neighbours(dilation: int) -> None:
    visible, _ = pairs(Grid(8, 10), NeighborhoodOptions(window=3, dilation=dilation), None)
    assert set(visible.sum(1).tolist()) == {9}


@pytest.mark.parametrize(
    "change", [{"window": 3}, {"dilation": 2}, {"position_bias": False}], ids=str
)
def test_other_options_are_another_function(change: dict[str, object]) -> None:
    right = NeighborhoodOptions(window=5)
    grid = Grid(12, 11)
    _, want = both(grid, right)
    got, own = both(grid, replace(right, **change))
    assert_close(got, own, rtol=1e-10, atol=1e-12)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, want)


def test_a_window_over_the_whole_grid_is_softmax_attention() -> None:
    grid = Grid(5, 3)
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    options = NeighborhoodOptions(window=5, position_bias=False)
    want = load("softmax").build(AttentionShape(2, grid, HEADS, WIDTH)).mix(q, k, v, x, grid)
    got = filled(SPEC, grid, HEADS, WIDTH, options).mix(q, k, v, x, grid)
    assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dilation", [1, 3])
def test_the_formula_counts_the_pairs(dilation: int) -> None:
    shape = AttentionShape(2, Grid(16, 11), HEADS, WIDTH)
    options = NeighborhoodOptions(window=5, dilation=dilation)
    visible, _ = pairs(shape.grid, options, None)
    assert SPEC.core_flops(shape, options) == 4 * 2 * visible.sum().item() * shape.channels


@pytest.mark.parametrize("change", [{"window": 4}, {"window": 1}, {"dilation": 0}], ids=str)
def test_options_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(NeighborhoodOptions(), **change)
