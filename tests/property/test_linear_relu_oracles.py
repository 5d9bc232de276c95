"""linear_relu against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from property.linear_oracles import FEATURE_MAPS, dense, recurrence
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.parts.linear_attention import CHUNK_TOKENS
from bench.stimulus import normal

SPEC = load("linear_relu")
PHI = FEATURE_MAPS["linear_relu"]
HEADS, WIDTH = 2, 16
SHAPE = AttentionShape(2, Grid(1, 1), HEADS, WIDTH)


def qkv(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shape = (2, HEADS, tokens, WIDTH)
    return [normal(name, shape, dtype=torch.float64).to(dtype) for name in "qkv"]


def mixed(*inputs: Tensor, causal: bool = False) -> Tensor:
    tokens = inputs[0].shape[2]
    grid = Grid(1, tokens)
    mix = SPEC.build(replace(SHAPE, grid=grid, causal=causal)).mix
    return mix(*inputs, torch.zeros(2, tokens, HEADS * WIDTH, dtype=inputs[0].dtype), grid)


@given(tokens=st.integers(1, 90))
def test_linear_form_equals_the_dense_one(tokens: int) -> None:
    q, k, v = qkv(tokens)
    assert_close(mixed(q, k, v), dense(PHI, q, k, v, causal=False), rtol=1e-10, atol=1e-12)


@given(tokens=st.integers(1, 3 * CHUNK_TOKENS + 1))
def test_chunks_equal_the_recurrence(tokens: int) -> None:
    q, k, v = qkv(tokens)
    got = mixed(q, k, v, causal=True)
    assert_close(got, recurrence(PHI, q, k, v), rtol=1e-10, atol=1e-12)
    assert_close(got, dense(PHI, q, k, v, causal=True), rtol=1e-10, atol=1e-12)


def test_the_other_feature_map_is_told_apart() -> None:
    q, k, v = qkv(20)
    other = next(phi for name, phi in FEATURE_MAPS.items() if name != SPEC.name)
    for causal in (False, True):
        with pytest.raises(AssertionError, match="not close"):
            assert_close(mixed(q, k, v, causal=causal), dense(other, q, k, v, causal=causal))


@given(at=st.integers(0, 2 * CHUNK_TOKENS - 1))
def test_causal_output_knows_nothing_later(at: int) -> None:
    q, k, v = qkv(2 * CHUNK_TOKENS)
    before = mixed(q, k, v, causal=True)
    for tensor in (k, v):
        tensor[:, :, at] += 1
    after = mixed(q, k, v, causal=True)
    assert torch.equal(before[:, :, :at], after[:, :, :at])
    assert not torch.equal(before[:, :, at], after[:, :, at])


@pytest.mark.parametrize("causal", [False, True])
def test_inputs_are_left_alone(causal: bool) -> None:
    inputs = qkv(30)
    copies = [t.clone() for t in inputs]
    with torch.no_grad():
        mixed(*inputs, causal=causal)
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_the_function(causal: bool) -> None:
    tokens = CHUNK_TOKENS + 3 if causal else 5
    inputs = [t[:1, :1, :, :2].clone().requires_grad_() for t in qkv(tokens)]
    want = [t.detach().clone().requires_grad_() for t in inputs]
    shape, grid = AttentionShape(1, Grid(1, tokens), 1, 2, causal=causal), Grid(1, tokens)
    mix = SPEC.build(shape).mix
    x = torch.zeros(1, tokens, 2, dtype=torch.float64)
    weights = normal("loss", (1, 1, tokens, 2), dtype=torch.float64)
    (mix(*inputs, x, grid) * weights).sum().backward()
    (dense(PHI, *want, causal=causal) * weights).sum().backward()
    for got, expected in zip(inputs, want, strict=True):
        assert_close(got.grad, expected.grad, rtol=1e-7, atol=1e-9)
    if not causal:
        assert torch.autograd.gradcheck(lambda *t: mix(*t, x, grid), inputs, eps=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_holds_on_long_sequences(dtype: torch.dtype, causal: bool) -> None:
    inputs = [t[:1, :1] for t in qkv(16_384)]
    inputs[2] = inputs[2] + 3  # values with a mean: their plain sum grows with the tokens
    grid = Grid(128, 128)
    mix = SPEC.build(AttentionShape(1, grid, 1, WIDTH, causal=causal)).mix
    rounded = [t.to(dtype).requires_grad_() for t in inputs]
    got = mix(*rounded, torch.zeros(1, grid.tokens, WIDTH, dtype=dtype), grid)
    exact = (t.detach().double() for t in rounded)
    want = mix(*exact, torch.zeros(1, grid.tokens, WIDTH, dtype=torch.float64), grid)
    assert_close(got.double(), want, rtol=0, atol=0.02 * want.abs().max().item())
    got.sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in rounded)


def test_the_plain_sum_would_overflow_float16() -> None:
    q, k, v = (t[:1, :1].half() for t in qkv(16_384))
    total = PHI(k.double()).sum(-2, keepdim=True)
    assert (PHI(q.double()) @ total.mT).max() > torch.finfo(torch.float16).max
    assert not (PHI(k).mT @ (v + 100)).isfinite().all()


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        replace(SPEC.options, epsilon=-1e-6)


def test_a_query_without_a_positive_channel_gives_zero_and_finite_gradients() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        q, k, v = (t.clone().requires_grad_() for t in qkv(40, dtype))
        dead = q.detach().abs().neg().requires_grad_()
        out = mixed(dead, k, v)
        assert torch.equal(out, torch.zeros_like(out))
        out.sum().backward()
        for tensor in (dead, k, v):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()


@given(factor=st.floats(0.1, 10))
def test_the_length_of_a_query_is_not_seen(factor: float) -> None:
    q, k, v = qkv(12)
    assert_close(mixed(q * factor, k, v), mixed(q, k, v), rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mixed(q.roll(1, -1), k, v), mixed(q, k, v), rtol=1e-5, atol=1e-6)
