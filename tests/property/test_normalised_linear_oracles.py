"""linear_elu and linear_relu against what their common mathematics must give."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from property.linear_oracles import FEATURE_MAPS, WIDTH, dense, mixed, qkv, recurrence
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.parts.linear_attention import CHUNK_TOKENS
from bench.stimulus import normal


@pytest.mark.parametrize("variant", FEATURE_MAPS)
@given(tokens=st.integers(1, 90))
def test_linear_form_equals_the_dense_one(variant: str, tokens: int) -> None:
    q, k, v = qkv(tokens)
    want = dense(FEATURE_MAPS[variant], q, k, v, causal=False)
    assert_close(mixed(variant, q, k, v), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", FEATURE_MAPS)
@given(tokens=st.integers(1, 3 * CHUNK_TOKENS + 1))
def test_chunks_equal_the_recurrence(variant: str, tokens: int) -> None:
    q, k, v = qkv(tokens)
    phi, got = FEATURE_MAPS[variant], mixed(variant, q, k, v, causal=True)
    assert_close(got, recurrence(phi, q, k, v), rtol=1e-10, atol=1e-12)
    assert_close(got, dense(phi, q, k, v, causal=True), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", FEATURE_MAPS)
def test_the_other_feature_map_is_told_apart(variant: str) -> None:
    q, k, v = qkv(20)
    other = next(phi for name, phi in FEATURE_MAPS.items() if name != variant)
    for causal in (False, True):
        wrong = dense(other, q, k, v, causal=causal)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(mixed(variant, q, k, v, causal=causal), wrong)


@pytest.mark.parametrize("variant", FEATURE_MAPS)
@given(at=st.integers(0, 2 * CHUNK_TOKENS - 1))
def test_causal_output_knows_nothing_later(variant: str, at: int) -> None:
    q, k, v = qkv(2 * CHUNK_TOKENS)
    before = mixed(variant, q, k, v, causal=True)
    for tensor in (k, v):
        tensor[:, :, at] += 1
    after = mixed(variant, q, k, v, causal=True)
    assert torch.equal(before[:, :, :at], after[:, :, :at])
    assert not torch.equal(before[:, :, at], after[:, :, at])


@pytest.mark.parametrize("variant", FEATURE_MAPS)
@pytest.mark.parametrize("causal", [False, True])
def test_inputs_are_left_alone(variant: str, causal: bool) -> None:
    inputs = qkv(30)
    copies = [t.clone() for t in inputs]
    with torch.no_grad():
        mixed(variant, *inputs, causal=causal)
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("variant", FEATURE_MAPS)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_the_function(variant: str, causal: bool) -> None:
    tokens = CHUNK_TOKENS + 3 if causal else 5
    inputs = [t[:1, :1, :, :2].clone().requires_grad_() for t in qkv(tokens)]
    want = [t.detach().clone().requires_grad_() for t in inputs]
    shape, grid = AttentionShape(1, Grid(1, tokens), 1, 2, causal=causal), Grid(1, tokens)
    mix = load(variant).build(shape).mix
    x = torch.zeros(1, tokens, 2, dtype=torch.float64)
    weights = normal("loss", (1, 1, tokens, 2), dtype=torch.float64)
    (mix(*inputs, x, grid) * weights).sum().backward()
    (dense(FEATURE_MAPS[variant], *want, causal=causal) * weights).sum().backward()
    for got, expected in zip(inputs, want, strict=True):
        assert_close(got.grad, expected.grad, rtol=1e-7, atol=1e-9)
    if not causal:
        assert torch.autograd.gradcheck(lambda *t: mix(*t, x, grid), inputs, eps=1e-6)


@pytest.mark.parametrize("variant", FEATURE_MAPS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_holds_on_long_sequences(
    variant: str, dtype: torch.dtype, causal: bool
) -> None:
    inputs = [t[:1, :1] for t in qkv(16_384)]
    inputs[2] = inputs[2] + 3  # values with a mean: their plain sum grows with the tokens
    grid = Grid(128, 128)
    mix = load(variant).build(AttentionShape(1, grid, 1, WIDTH, causal=causal)).mix
    rounded = [t.to(dtype).requires_grad_() for t in inputs]
    got = mix(*rounded, torch.zeros(1, grid.tokens, WIDTH, dtype=dtype), grid)
    exact = (t.detach().double() for t in rounded)
    want = mix(*exact, torch.zeros(1, grid.tokens, WIDTH, dtype=torch.float64), grid)
    assert_close(got.double(), want, rtol=0, atol=0.02 * want.abs().max().item())
    got.sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in rounded)


@pytest.mark.parametrize("variant", FEATURE_MAPS)
def test_the_plain_sum_would_overflow_float16(variant: str) -> None:
    phi = FEATURE_MAPS[variant]
    q, k, v = (t[:1, :1].half() for t in qkv(16_384))
    total = phi(k.double()).sum(-2, keepdim=True)
    assert (phi(q.double()) @ total.mT).max() > torch.finfo(torch.float16).max
    assert not (phi(k).mT @ (v + 100)).isfinite().all()


@pytest.mark.parametrize("variant", FEATURE_MAPS)
def test_options_out_of_range_are_refused(variant: str) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        replace(load(variant).options, epsilon=-1e-6)
