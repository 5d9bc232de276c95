"""taylor against the second-order series of exp on the dense scores."""

import pytest
import torch
from property.linear_oracles import recurrence
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.taylor import TaylorOptions, series
from bench.stimulus import normal


def tensors(tokens: int, narrow: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k = (normal(name, (2, 3, tokens, narrow), dtype=torch.float64) for name in "qk")
    return q, k, normal("v", (2, 3, tokens, 8), dtype=torch.float64)


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize("narrow", [1, 5, 8])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_dense_series(tokens: int, narrow: int, causal: bool) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=8, causal=causal)
    mix = load("taylor").build(shape, TaylorOptions(feature_dim=narrow)).mix
    q, k, v = tensors(tokens, narrow)
    scores = q @ k.mT * narrow**-0.5
    weights = 1 + scores + scores.square() / 2
    assert weights.min() >= 0.5
    weights = weights.tril() if causal else weights
    want = weights / weights.sum(-1, keepdim=True) @ v
    x = v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(mix(q, k, v, x, shape.grid), want)
    if tokens > 1:
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(mix(1.01 * q, k, v, x, shape.grid), want)


def products(x: Tensor) -> Tensor:
    """1, x and all products of two of its channels, in both orders: the series, as products."""
    x = x * x.shape[-1] ** -0.25
    pairs = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2) * 2**-0.5
    return torch.cat((torch.ones_like(x[..., :1]), x, pairs), -1)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 150])
def test_causal_form_equals_the_recurrence(tokens: int) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=8, causal=True)
    mix = load("taylor").build(shape, TaylorOptions(feature_dim=5)).mix
    q, k, v = tensors(tokens, 5)
    want = recurrence(torch.clone, products(q), products(k), v, 1e-12)
    x = v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(mix(q, k, v, x, shape.grid), want)
    if tokens > 1:
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(mix(k, q, v, x, shape.grid), want)


@pytest.mark.parametrize("narrow", [1, 4, 16])
def test_number_of_features(narrow: int) -> None:
    x = normal("x", (1, 1, 2, narrow), dtype=torch.float64)
    assert series(x).shape[-1] == 1 + narrow + narrow * (narrow + 1) // 2


def test_wider_queries_than_the_layer_makes_are_cut() -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, 6), heads=3, head_dim=8)
    mix = load("taylor").build(shape, TaylorOptions(feature_dim=5)).mix
    q, k, v = tensors(6, 8)
    x = v.transpose(1, 2).flatten(2)
    want = mix(q[..., :5], k[..., :5], v, x, shape.grid)
    torch.testing.assert_close(mix(q, k, v, x, shape.grid), want)
