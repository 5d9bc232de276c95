"""cross_covariance against softmax attention on transposed, normalised queries and keys."""

import pytest
import torch
from torch.nn import functional as F

from attention_impls import AttentionShape, Grid, load
from bench.stimulus import fill_parameters, normal

SHAPE = AttentionShape(batch=2, grid=Grid(3, 5), heads=2, head_dim=4)


def test_equals_attention_between_channels() -> None:
    layer = load("cross_covariance").build(SHAPE)
    fill_parameters(layer)
    mix = layer.double().requires_grad_(requires_grad=False).mix
    with torch.no_grad():
        mix.temperature.add_(1)
    q, k, v = (normal(name, (2, 2, 15, 4), dtype=torch.float64) for name in "qkv")
    columns = [F.normalize(t, dim=2).mT for t in (q, k)]
    want = F.scaled_dot_product_attention(columns[0] * mix.temperature, columns[1], v.mT, scale=1)
    x = v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(mix(q, k, v, x, SHAPE.grid), want.mT)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mix(k, q, v, x, SHAPE.grid), want.mT)


def test_the_size_of_a_channel_plays_no_part() -> None:
    mix = load("cross_covariance").build(SHAPE).double().mix
    q, k, v = (normal(name, (2, 2, 15, 4), dtype=torch.float64) for name in "qkv")
    x, sizes = v.transpose(1, 2).flatten(2), torch.tensor([0.01, 3, 7, 100]).double()
    want = mix(q, k, v, x, SHAPE.grid)
    torch.testing.assert_close(mix(q * sizes, k * sizes, v, x, SHAPE.grid), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mix(-q, k, v, x, SHAPE.grid), want)
