"""hilo against windows and means taken one at a time."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from property.grid_oracles import filled, inputs, masked_attention, places
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.hilo import HiloOptions

SPEC = load("hilo")
WIDTH = 3


def windows(grid: Grid, side: int) -> Tensor:
    """Number of each token's window."""
    rows, columns = places(grid)
    return rows // side * grid.width + columns // side


def means(heads: Tensor, number: Tensor) -> Tensor:
    """Mean of each window, in the order of their first tokens."""
    return torch.stack([heads[:, :, number == n].mean(2) for n in number.unique()], 2)


def dense(
    q: Tensor, k: Tensor, v: Tensor, grid: Grid, high: int, side: int, means_of=means
) -> Tensor:
    number = windows(grid, side)
    near = masked_attention(
        q[:, :high], k[:, :high], v[:, :high], number[:, None] == number[None, :]
    )
    keys, values = (means_of(t[:, high:], number) for t in (k, v))
    far = (q[:, high:] @ keys.mT / WIDTH**0.5).softmax(-1) @ values
    return torch.cat((near, far), 1)


@settings(max_examples=25)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    side=st.integers(2, 3),
    share=st.sampled_from((0.0, 0.3, 0.5, 0.9, 1.0)),
)
def test_equals_windows_and_means_one_at_a_time(
    height: int, width: int, side: int, share: float
) -> None:
    grid, heads = Grid(height, width), 3
    q, k, v, x = inputs(grid, heads, WIDTH)
    options = HiloOptions(window=side, low_share=share)
    mix = filled(SPEC, grid, heads, WIDTH, options).mix
    want = dense(q, k, v, grid, heads - int(heads * share), side)
    assert_close(mix(q, k, v, x, grid), want, rtol=1e-10, atol=1e-12)


def test_sums_instead_of_means_are_another_function() -> None:
    grid = Grid(4, 5)
    q, k, v, x = inputs(grid, 3, WIDTH)
    mix = filled(SPEC, grid, 3, WIDTH, HiloOptions()).mix

    def sums(heads: Tensor, number: Tensor) -> Tensor:
        return torch.stack([heads[:, :, number == n].sum(2) for n in number.unique()], 2)

    assert_close(mix(q, k, v, x, grid), dense(q, k, v, grid, 1, 2))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, x, grid), dense(q, k, v, grid, 1, 2, sums))


@pytest.mark.parametrize("grid", [Grid(4, 6), Grid(5, 3)], ids=str)
def test_the_layer_is_its_core_between_projections(grid: Grid) -> None:
    """Averaging before the projection is averaging after it."""
    layer = filled(SPEC, grid, 3, WIDTH, HiloOptions())
    x = inputs(grid, 3, WIDTH)[3]
    high = layer.high_qkv(x).unflatten(2, (3, 1, WIDTH)).permute(2, 0, 3, 1, 4)
    low_q = layer.low_q(x).unflatten(2, (2, WIDTH)).transpose(1, 2)
    low_kv = layer.low_kv(x).unflatten(2, (2, 2, WIDTH)).permute(2, 0, 3, 1, 4)
    q, k, v = (torch.cat(pair, 1) for pair in zip(high, (low_q, *low_kv), strict=True))
    mixed = layer.mix(q, k, v, x, grid).transpose(1, 2).flatten(2)
    want = torch.cat((layer.high_out(mixed[..., :WIDTH]), layer.low_out(mixed[..., WIDTH:])), 2)
    assert_close(layer(x, grid), want, rtol=1e-10, atol=1e-12)


def test_window_1_is_softmax_attention() -> None:
    grid = Grid(3, 4)
    q, k, v, x = inputs(grid, 2, WIDTH)
    want = load("softmax").build(AttentionShape(2, grid, 2, WIDTH)).mix(q, k, v, x, grid)
    got = filled(SPEC, grid, 2, WIDTH, HiloOptions(window=1)).mix(q, k, v, x, grid)
    assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("share", "names"), [(0.0, {"high"}), (1.0, {"low"}), (0.5, {"high", "low"})]
)
def test_groups_without_heads_have_no_parameters(share: float, names: set[str]) -> None:
    layer = SPEC.build(AttentionShape(1, Grid(2, 2), 2, WIDTH), HiloOptions(low_share=share))
    assert {name.split("_")[0] for name, _ in layer.named_parameters()} == names


@pytest.mark.parametrize(
    "change", [{"window": 0}, {"low_share": -0.1}, {"low_share": 1.1}], ids=str
)
def test_options_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(HiloOptions(), **change)
