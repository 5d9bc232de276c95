"""efficient against a dense matrix of weights, written without its two products."""

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.efficient import EfficientOptions
from bench.stimulus import normal


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Weight of token j for query i: over channels, chance of the channel times chance of j."""
    out = torch.zeros_like(v)
    for i in range(q.shape[2]):
        chosen = q[:, :, i].exp() / q[:, :, i].exp().sum(-1, keepdim=True)
        weights = (k.exp() / k.exp().sum(2, keepdim=True) * chosen.unsqueeze(2)).sum(-1)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        out[:, :, i] = (weights.unsqueeze(-1) * v).sum(2)
    return out


def tensors(tokens: int) -> tuple[Tensor, ...]:
    sizes = (2, 3, tokens, 4)
    return tuple(normal(name, sizes, dtype=torch.float64) for name in "qkv")


@pytest.mark.parametrize("tokens", [1, 2, 15])
@pytest.mark.parametrize("scaled", [False, True])
def test_equals_the_dense_weights(tokens: int, scaled: bool) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=4)
    mix = load("efficient").build(shape, EfficientOptions(scaled_queries=scaled)).mix
    q, k, v = tensors(tokens)
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), shape.grid)
    torch.testing.assert_close(got, dense(q, k, v) / (2 if scaled else 1))


def test_a_constant_added_to_a_key_channel_changes_nothing() -> None:
    """The softmax over tokens ignores it; to a query channel it does change the output."""
    shape = AttentionShape(batch=2, grid=Grid(1, 15), heads=3, head_dim=4)
    mix = load("efficient").build(shape).mix
    q, k, v = tensors(15)
    x, shift = v.transpose(1, 2).flatten(2), torch.tensor([3.0, 0, -2, 0], dtype=torch.float64)
    want = mix(q, k, v, x, shape.grid)
    torch.testing.assert_close(mix(q, k + shift, v, x, shape.grid), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mix(q + shift, k, v, x, shape.grid), want)
