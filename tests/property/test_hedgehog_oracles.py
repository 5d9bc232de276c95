"""hedgehog against a dense matrix of products of its features, and its features' properties."""

import pytest
import torch
from property.linear_oracles import recurrence
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.hedgehog import HedgehogOptions
from bench.stimulus import fill_parameters, normal


def features(x: Tensor, weight: Tensor, activation: str) -> Tensor:
    """Joined exponentials of a mapped token and of its negative, divided by sum or largest."""
    halves = []
    for mapped in (x @ weight, -(x @ weight)):
        raised = mapped.exp()
        total = raised.sum(-1, keepdim=True)
        largest = raised.max(-1, keepdim=True).values
        halves.append(raised / (total if activation == "softmax" else largest))
    return torch.cat(halves, -1)


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "exp"])
@pytest.mark.parametrize("tied", [False, True])
def test_equals_the_dense_weights(tokens: int, causal: bool, activation: str, tied: bool) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=4, causal=causal)
    layer = load("hedgehog").build(shape, HedgehogOptions(activation=activation, tied=tied))
    fill_parameters(layer)
    mix = layer.double().requires_grad_(requires_grad=False).mix
    q, k, v = (normal(name, (2, 3, tokens, 4), dtype=torch.float64) for name in "qkv")
    key_map = mix.query_map if tied else mix.key_map
    weights = features(q, mix.query_map, activation) @ features(k, key_map, activation).mT
    weights = weights.tril() if causal else weights
    want = weights / weights.sum(-1, keepdim=True) @ v
    x = v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(mix(q, k, v, x, shape.grid), want)
    if tokens > 1:
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(mix(k, q, v, x, shape.grid), want)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 150])
def test_causal_form_equals_the_recurrence(tokens: int) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=4, causal=True)
    layer = load("hedgehog").build(shape)
    fill_parameters(layer)
    mix = layer.double().requires_grad_(requires_grad=False).mix
    q, k, v = (normal(name, (2, 3, tokens, 4), dtype=torch.float64) for name in "qkv")
    known = (features(q, mix.query_map, "softmax"), features(k, mix.key_map, "softmax"))
    want = recurrence(torch.clone, *known, v, 1e-12)
    x = v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(mix(q, k, v, x, shape.grid), want)
    if tokens > 1:
        swapped = recurrence(torch.clone, *known[::-1], v, 1e-12)
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(mix(q, k, v, x, shape.grid), swapped)


def test_maps_start_as_the_identity() -> None:
    shape = AttentionShape(batch=1, grid=Grid(1, 2), heads=3, head_dim=4)
    mix = load("hedgehog").build(shape).mix
    for weight in (mix.query_map, mix.key_map):
        torch.testing.assert_close(weight.detach(), torch.eye(4).expand(3, 4, 4))
    assert mix.query_map is not mix.key_map
