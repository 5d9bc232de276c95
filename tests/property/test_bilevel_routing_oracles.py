"""bilevel_routing against regions routed one at a time."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from property.grid_oracles import filled, inputs, places
from torch import Tensor, nn
from torch.testing import assert_close

from attention_impls import Grid, load
from attention_impls.variants.bilevel_routing import BilevelRoutingOptions

SPEC = load("bilevel_routing")
HEADS, WIDTH = 2, 3
CHANNELS = HEADS * WIDTH
BARE = BilevelRoutingOptions(regions=3, attended=2, local_residual=False)


def region_of(grid: Grid, regions: int) -> Tensor:
    """Number of each token's region."""
    rows, columns = places(grid)
    high, wide = math.ceil(grid.height / regions), math.ceil(grid.width / regions)
    return rows // high * grid.width + columns // wide


def routed(
    q: Tensor, k: Tensor, v: Tensor, grid: Grid, options: BilevelRoutingOptions, scale: float
) -> Tensor:
    number = region_of(grid, options.regions)
    kinds = number.unique()
    out = torch.zeros_like(v)
    for item in range(q.shape[0]):
        mean_q, mean_k = (
            torch.stack([t[item][:, number == n].mean(1).flatten() for n in kinds]) for t in (q, k)
        )
        order = (mean_q @ mean_k.T).argsort(1, descending=True)[:, : options.attended]
        for place, n in enumerate(kinds):
            seen = torch.isin(number, kinds[order[place]])
            scores = q[item][:, number == n] @ k[item][:, seen].mT * scale
            out[item][:, number == n] = scores.softmax(-1) @ v[item][:, seen]
    return out


@settings(max_examples=25)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    regions=st.integers(1, 4),
    attended=st.integers(1, 5),
)
def test_equals_regions_routed_one_at_a_time(
    height: int, width: int, regions: int, attended: int
) -> None:
    grid = Grid(height, width)
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    options = replace(BARE, regions=regions, attended=attended)
    mix = filled(SPEC, grid, HEADS, WIDTH, options).mix
    want = routed(q, k, v, grid, options, CHANNELS**-0.5)
    assert_close(mix(q, k, v, x, grid), want, rtol=1e-10, atol=1e-12)


def test_the_scale_of_a_head_is_another_function() -> None:
    grid = Grid(6, 6)
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    mix = filled(SPEC, grid, HEADS, WIDTH, BARE).mix
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, x, grid), routed(q, k, v, grid, BARE, WIDTH**-0.5))


def local(v: Tensor, mix: nn.Module, grid: Grid) -> Tensor:
    """5x5 depthwise convolution, one pair of tokens at a time."""
    filters = mix.local.weight.view(HEADS, WIDTH, 5, 5)
    out = mix.local.bias.view(1, HEADS, 1, WIDTH).expand(v.shape).clone()
    rows, columns = (p.tolist() for p in places(grid))
    for i in range(grid.tokens):
        for j in range(grid.tokens):
            down, right = rows[j] - rows[i] + 2, columns[j] - columns[i] + 2
            if 0 <= down < 5 and 0 <= right < 5:
                out[:, :, i] += filters[:, :, down, right] * v[:, :, j]
    return out


@pytest.mark.parametrize("grid", [Grid(4, 6), Grid(3, 5)], ids=str)
def test_the_local_encoding_is_a_convolution_of_the_whole_grid(grid: Grid) -> None:
    q, k, v, x = inputs(grid, HEADS, WIDTH)
    whole = filled(SPEC, grid, HEADS, WIDTH, replace(BARE, local_residual=True)).mix
    bare = filled(SPEC, grid, HEADS, WIDTH, BARE).mix
    got = whole(q, k, v, x, grid) - bare(q, k, v, x, grid)
    assert_close(got, local(v, whole, grid), rtol=1e-9, atol=1e-11)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, local(v.flip(2), whole, grid))


def test_the_choice_of_regions_passes_no_gradient() -> None:
    """All queries of a region moved alike along a key that no chosen region has."""
    grid = Grid(6, 6)
    q, k, v, x = inputs(grid, HEADS, WIDTH, batch=1)
    mix = filled(SPEC, grid, HEADS, WIDTH, replace(BARE, attended=1)).mix
    leaf = k.clone().requires_grad_()
    mix(q, leaf, v, x, grid)[:, :, :1].sum().backward()
    assert leaf.grad is not None
    seen = leaf.grad.abs().sum((0, 1, 3)) > 0
    assert seen.sum() == 4, "one region of 2x2 tokens"


@pytest.mark.parametrize(
    "change", [{"regions": 0}, {"attended": 0}, {"local_size": 4}, {"local_size": -1}], ids=str
)
def test_options_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(BARE, **change)
