"""softmax against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from bench.stimulus import normal

SPEC = load("softmax")
SHAPE = AttentionShape(2, Grid(3, 5), 2, 4)


def qkv(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [normal(name, (2, 2, tokens, 4), dtype=torch.float64).to(dtype) for name in "qkv"]


def mixed(*inputs: Tensor, causal: bool = False) -> Tensor:
    tokens = inputs[0].shape[2]
    grid = Grid(1, tokens)
    mix = SPEC.build(replace(SHAPE, grid=grid, causal=causal)).mix
    return mix(*inputs, torch.zeros(2, tokens, 8, dtype=inputs[0].dtype), grid)


@given(tokens=st.integers(1, 40), causal=st.booleans())
def test_equals_the_fused_product(tokens: int, causal: bool) -> None:
    q, k, v = qkv(tokens)
    want = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    assert_close(mixed(q, k, v, causal=causal), want, rtol=1e-12, atol=1e-12)


def test_a_scale_of_one_is_told_apart() -> None:
    q, k, v = qkv(9)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mixed(q * 2, k, v), mixed(q, k, v), rtol=1e-3, atol=1e-3)


@given(tokens=st.integers(1, 20))
def test_weights_are_a_distribution_over_keys(tokens: int) -> None:
    q, k = (normal(name, (1, 1, tokens, tokens), dtype=torch.float64) for name in "qk")
    grid, eye = Grid(1, tokens), torch.eye(tokens, dtype=torch.float64).view(1, 1, tokens, tokens)
    weights = SPEC.build(AttentionShape(1, grid, 1, tokens)).mix(q, k, eye, eye[0], grid)
    assert weights.min() >= 0
    assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=1e-12, atol=0)


@given(at=st.integers(0, 15))
def test_causal_output_knows_nothing_later(at: int) -> None:
    q, k, v = qkv(16)
    before = mixed(q, k, v, causal=True)
    for tensor in (k, v):
        tensor[:, :, at] += 1
    after = mixed(q, k, v, causal=True)
    assert torch.equal(before[:, :, :at], after[:, :, :at])
    assert not torch.equal(before[:, :, at], after[:, :, at])


def test_half_precision_scores_beyond_its_range_stay_finite() -> None:
    q, k, v = qkv(8, torch.float16)
    out = mixed(q * 100, k * 100, v)
    assert out.isfinite().all()
    assert (q * 100 @ (k * 100).mT).abs().max() > 1e4  # the case is as large as it claims
