"""separable against sums over the tokens that a loop puts into the same group."""

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.separable import SeparableOptions
from bench.stimulus import normal


def looped(query: Tensor, k: Tensor, v: Tensor, grid: Grid, size: int) -> Tensor:
    """query [batch, tokens], k and v [batch, tokens, channels]."""

    def group(token: int) -> tuple[int, int]:
        return token // grid.width % size, token % grid.width % size

    out = torch.zeros_like(v)
    for i in range(grid.tokens):
        members = [j for j in range(grid.tokens) if group(j) == group(i)]
        weights = query[:, members].exp()
        weights = (weights / weights.sum(1, keepdim=True)).unsqueeze(-1)
        out[:, i] = v[:, i].relu() * (weights * k[:, members]).sum(1)
    return out


@pytest.mark.parametrize(
    "grid", [Grid(1, 1), Grid(4, 6), Grid(5, 6), Grid(3, 7), Grid(1, 9), Grid(9, 1)], ids=str
)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_equals_the_loop(grid: Grid, size: int) -> None:
    shape = AttentionShape(batch=2, grid=grid, heads=2, head_dim=4)
    mix = load("separable").build(shape, SeparableOptions(patch_size=size)).mix
    query = normal("q", (2, grid.tokens), dtype=torch.float64)
    k, v = (normal(name, (2, grid.tokens, 8), dtype=torch.float64) for name in "kv")
    keys, values = (t.unflatten(2, (2, 4)).transpose(1, 2) for t in (k, v))
    got = mix(query[:, None, :, None], keys, values, v, grid).transpose(1, 2).flatten(2)
    torch.testing.assert_close(got, looped(query, k, v, grid, size))
    if grid.tokens > 2:
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(got, looped(query, k, v, grid, size % 3 + 1))


def test_of_wide_queries_the_first_channel_of_the_first_head_is_used() -> None:
    shape = AttentionShape(batch=2, grid=Grid(4, 6), heads=2, head_dim=4)
    mix = load("separable").build(shape).mix
    q, k, v = (normal(name, (2, 2, 24, 4), dtype=torch.float64) for name in "qkv")
    x = v.transpose(1, 2).flatten(2)
    want = mix(q, k, v, x, shape.grid)
    torch.testing.assert_close(mix(q[:, :1, :, :1], k, v, x, shape.grid), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mix(q.flip(1), k, v, x, shape.grid), want)


def test_a_constant_added_to_every_query_changes_nothing() -> None:
    shape = AttentionShape(batch=2, grid=Grid(4, 6), heads=2, head_dim=4)
    mix = load("separable").build(shape).mix
    q, k, v = (normal(name, (2, 2, 24, 4), dtype=torch.float64) for name in "qkv")
    x = v.transpose(1, 2).flatten(2)
    want = mix(q, k, v, x, shape.grid)
    torch.testing.assert_close(mix(q + 5, k, v, x, shape.grid), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mix(q, k + 5, v, x, shape.grid), want)


def test_a_patch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_size is 0"):
        SeparableOptions(patch_size=0)
