"""lite_mla against loops: a neighbourhood sum a token, then rectified weights row by row."""

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.lite_mla import LiteMlaMix, LiteMlaOptions
from bench.stimulus import fill_parameters, normal

SHAPE = AttentionShape(batch=2, grid=Grid(3, 4), heads=2, head_dim=4)


def weighted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head: rows of rectified products, each divided by its sum."""
    out = torch.zeros_like(v)
    for i, query in enumerate(q):
        row = torch.stack([(query.relu() * key.relu()).sum() for key in k])
        out[i] = (row.unsqueeze(1) * v).sum(0) / (row.sum() + 1e-15)
    return out


def neighbourhood(tokens: Tensor, filters: Tensor, grid: Grid) -> Tensor:
    """One head: the sum over the places of a filter that lie on the grid."""
    out, reach = torch.zeros_like(tokens), filters.shape[-1] // 2
    for i in range(grid.tokens):
        for j in range(grid.tokens):
            down, right = j // grid.width - i // grid.width, j % grid.width - i % grid.width
            if max(abs(down), abs(right)) <= reach:
                out[i] += tokens[j] * filters[:, 0, reach + down, reach + right]
    return out


def looped(mix: LiteMlaMix, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = []
    for b in range(SHAPE.batch):
        plain = [weighted(q[b, h], k[b, h], v[b, h]) for h in range(SHAPE.heads)]
        wide = []
        for h in range(SHAPE.heads):
            streams = []
            for place, stream in enumerate((q, k, v)):
                first = (3 * h + place) * SHAPE.head_dim
                own = slice(first, first + SHAPE.head_dim)
                near = neighbourhood(stream[b, h], mix.aggregation.local.weight[own], SHAPE.grid)
                streams.append(near @ mix.aggregation.mix.weight[own, :, 0, 0].T)
            wide.append(weighted(*streams))
        out.append(torch.stack(plain + wide))
    return torch.stack(out)


@pytest.mark.parametrize("size", [3, 5])
def test_equals_the_loops(size: int) -> None:
    layer = load("lite_mla").build(SHAPE, LiteMlaOptions(aggregation_size=size))
    fill_parameters(layer)
    mix = layer.double().requires_grad_(requires_grad=False).mix
    sizes = (SHAPE.batch, SHAPE.heads, SHAPE.tokens, SHAPE.head_dim)
    q, k, v = (normal(name, sizes, dtype=torch.float64) for name in "qkv")
    x = v.transpose(1, 2).flatten(2)
    want = looped(mix, q, k, v)
    torch.testing.assert_close(mix(q, k, v, x, SHAPE.grid), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mix(q, k, v, x, Grid(4, 3)), want)
