"""aft_simple against what its mathematics must give."""

import pytest
import torch
from property.recurrent_oracles import LENGTHS, inputs
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load

SPEC = load("aft_simple")
HEADS, WIDTH = 2, 3


def mixed(*tensors: Tensor, causal: bool = False) -> Tensor:
    grid = Grid(1, tensors[0].shape[2])
    mix = SPEC.build(AttentionShape(2, grid, HEADS, WIDTH, causal=causal)).mix
    return mix(*tensors, torch.zeros(2, grid.tokens, HEADS * WIDTH, dtype=tensors[0].dtype), grid)


def token_by_token(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    out = torch.zeros_like(v)
    for i in range(q.shape[2]):
        seen = i + 1 if causal else q.shape[2]
        weights = k[:, :, :seen].exp()
        mean = (weights * v[:, :, :seen]).sum(2) / weights.sum(2)
        out[:, :, i] = torch.sigmoid(q[:, :, i]) * mean
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_equals_the_formula(tokens: int, causal: bool) -> None:
    q, k, v, _ = inputs(2, HEADS, tokens, WIDTH)
    want = token_by_token(q, k, v, causal=causal)
    assert_close(mixed(q, k, v, causal=causal), want, rtol=1e-11, atol=1e-12)
    if tokens > 1:
        other = token_by_token(q, k.flip(2), v, causal=causal)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(mixed(q, k, v, causal=causal), other, rtol=1e-3, atol=1e-3)


def test_one_large_key_does_not_erase_what_came_before_it() -> None:
    """exp(k - max k) of the earlier tokens is 0 in float32: their causal means would be 0 / 0."""
    q, k, v, _ = (t.float() for t in inputs(2, HEADS, 40, WIDTH))
    k[:, :, 25] = 500.0
    out = mixed(q, k, v, causal=True)
    want = token_by_token(*(t[:, :, :25].double() for t in (q, k, v)), causal=True)
    assert_close(out[:, :, :25].double(), want, rtol=1e-4, atol=1e-5)
    assert_close(out[:, :, 25:], q[:, :, 25:].sigmoid() * v[:, :, 25:26], rtol=1e-4, atol=1e-5)
    shifted = (k - k.amax(2, keepdim=True)).exp().cumsum(2)
    assert (shifted[:, :, :25] == 0).all()


def test_gradients_are_those_of_the_function() -> None:
    leaves = [t[:1, :1].clone().requires_grad_() for t in inputs(2, HEADS, 9, WIDTH)[:3]]
    mix = SPEC.build(AttentionShape(1, Grid(1, 9), 1, WIDTH, causal=True)).mix
    x = torch.zeros(1, 9, WIDTH, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *t: mix(*t, x, Grid(1, 9)), leaves)


def test_causal_output_knows_nothing_later() -> None:
    tensors = inputs(2, HEADS, 33, WIDTH)[:3]
    before = mixed(*tensors, causal=True)
    for tensor in tensors[1:]:
        tensor[:, :, 20] += 1
    after = mixed(*tensors, causal=True)
    assert torch.equal(before[:, :, :20], after[:, :, :20])
    assert not torch.equal(before[:, :, 20], after[:, :, 20])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_holds_on_long_sequences(dtype: torch.dtype, causal: bool) -> None:
    q, k, v, _ = inputs(2, HEADS, 16_384, WIDTH)
    rounded = [t[:, :, :, :].to(dtype) for t in (q, k, v + 3)]
    want = mixed(*(t.double() for t in rounded), causal=causal)
    got = mixed(*rounded, causal=causal)
    assert_close(got.double(), want, rtol=0, atol=0.02 * want.abs().max().item())
