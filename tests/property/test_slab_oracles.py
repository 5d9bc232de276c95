"""slab against a dense matrix of rectified products and a convolution written as a loop."""

import pytest
import torch

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.slab import SlabOptions
from bench.stimulus import fill_parameters, normal

SHAPE = AttentionShape(batch=2, grid=Grid(3, 5), heads=2, head_dim=4)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("position", [False, True])
def test_equals_the_dense_weights(local: bool, position: bool) -> None:
    options = SlabOptions(local_residual=local, position_encoding=position)
    layer = load("slab").build(SHAPE, options)
    fill_parameters(layer)
    mix = layer.double().requires_grad_(requires_grad=False).mix
    sizes = (SHAPE.batch, SHAPE.heads, SHAPE.tokens, SHAPE.head_dim)
    q, k, v = (normal(name, sizes, dtype=torch.float64) for name in "qkv")
    x = v.transpose(1, 2).flatten(2)
    keys = k
    if position:
        keys = k + mix.positional_encoding.view(1, SHAPE.tokens, 2, 4).transpose(1, 2)
    weights = q.relu() @ keys.relu().mT
    want = weights / (weights.sum(-1, keepdim=True) + 1e-6) @ v
    if local:
        want += convolved(v, mix.dwc.weight, mix.dwc.bias)
    torch.testing.assert_close(mix(q, k, v, x, SHAPE.grid), want)
    if position:
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(mix(q, keys, v, x, SHAPE.grid), want)


def convolved(v: torch.Tensor, filters: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    grid, out = SHAPE.grid, bias.expand_as(v).clone()
    for i in range(grid.tokens):
        for j in range(grid.tokens):
            down, right = j // grid.width - i // grid.width, j % grid.width - i % grid.width
            if max(abs(down), abs(right)) <= 2:
                out[:, :, i] += v[:, :, j] * filters[:, 0, 2 + down, 2 + right]
    return out
