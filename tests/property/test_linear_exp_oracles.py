"""linear_exp against exponentials that are summed as they are, and where those overflow."""

import pytest
import torch
from property.linear_oracles import recurrence
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.linear_exp import LinearExpOptions
from bench.stimulus import normal


def tensors(tokens: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(normal(name, (2, 3, tokens, 8), dtype=dtype) for name in "qkv")


@pytest.mark.parametrize("tokens", [1, 2, 70])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("factor", [0.2, 1.0])
def test_equals_the_dense_weights(tokens: int, causal: bool, factor: float) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=8, causal=causal)
    mix = load("linear_exp").build(shape, LinearExpOptions(factor=factor)).mix
    q, k, v = tensors(tokens)
    weights = (factor * q).exp() @ (factor * k).exp().mT
    weights = weights.tril() if causal else weights
    want = weights / weights.sum(-1, keepdim=True) @ v
    x = v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(mix(q, k, v, x, shape.grid), want)
    if tokens > 1:
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(mix(1.1 * q, k, v, x, shape.grid), want)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 150])
def test_causal_form_equals_the_recurrence(tokens: int) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=8, causal=True)
    mix = load("linear_exp").build(shape).mix
    q, k, v = tensors(tokens)
    want = recurrence(lambda x: (0.2 * x).exp(), q, k, v, 0.0)
    x = v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(mix(q, k, v, x, shape.grid), want)
    if tokens > 1:
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(mix(k, q, v, x, shape.grid), want)


@pytest.mark.parametrize("causal", [False, True])
def test_exponents_beyond_the_range_of_the_dtype(causal: bool) -> None:
    """exp(200) is no float32; the weights it leads to are."""
    shape = AttentionShape(batch=2, grid=Grid(1, 20), heads=3, head_dim=8, causal=causal)
    mix = load("linear_exp").build(shape, LinearExpOptions(factor=1.0)).mix
    q, k, v = tensors(20)
    q, k, x = q + 200, k - 200, v.transpose(1, 2).flatten(2)
    assert torch.isinf(q.float().exp()).all()
    want = mix(q, k, v, x, shape.grid)
    got = mix(q.float(), k.float(), v.float(), x.float(), shape.grid)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mix(q - 200, k + 200, v, x, shape.grid), want)
