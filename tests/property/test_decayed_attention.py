"""Products whose weights decay, in chunks, against every weight written out."""

import pytest
import torch
from property.recurrent_oracles import LENGTHS, decayed_scan, inputs
from torch import Tensor
from torch.testing import assert_close

from attention_impls.parts.chunks import CHUNK_TOKENS, chunks_of
from attention_impls.parts.decayed_attention import decayed_product
from bench.stimulus import normal

WIDTH = 4


def logarithms(name: str, tokens: int, features: int, size: float = 1.0) -> Tensor:
    return -size * normal(name, (2, 3, tokens, features), dtype=torch.float64).abs()


def written_out(
    q: Tensor, k: Tensor, v: Tensor, forward: Tensor, backward: Tensor | None
) -> Tensor:
    """Sum over every pair of tokens, the decay between them summed up anew for each."""
    out = torch.zeros_like(v)
    tokens = q.shape[2]
    for i in range(tokens):
        for j in range(tokens):
            if j <= i:
                between = forward[:, :, j + 1 : i + 1].sum(2)
            elif backward is not None:
                between = backward[:, :, i:j].sum(2)
            else:
                continue
            weight = (q[:, :, i] * between.exp() * k[:, :, j]).sum(-1, keepdim=True)
            out[:, :, i] += weight * v[:, :, j]
    return out


@pytest.mark.parametrize("features", [1, WIDTH])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("tokens", [1, 2, 7, 65])
def test_equals_the_sum_over_all_pairs(tokens: int, both: bool, features: int) -> None:
    q, k, v, _ = inputs(2, 3, tokens, WIDTH)
    forward = logarithms("forward", tokens, features)
    backward = logarithms("backward", tokens, features) if both else None
    want = written_out(q, k, v, forward, backward)
    assert_close(decayed_product(q, k, v, forward, backward), want, rtol=1e-11, atol=1e-12)
    if tokens > 1:
        other = decayed_product(q, k, v, forward.roll(1, 2) * 1.1, backward)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(other, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("features", [1, WIDTH])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_equals_the_recurrence(tokens: int, features: int) -> None:
    q, k, v, _ = inputs(2, 3, tokens, WIDTH)
    forward = logarithms("forward", tokens, features, 0.05)
    want = decayed_scan(q, k, v, forward.exp())
    assert_close(decayed_product(q, k, v, forward), want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("features", [1, WIDTH])
def test_decays_without_end_leave_nothing_and_break_nothing(features: int) -> None:
    q, k, v, _ = (t.float() for t in inputs(2, 3, 130, WIDTH))
    cut = torch.zeros(2, 3, 130, features)
    cut[:, :, ::10] = -1e4  # the logarithm where a sum of 130 of them is beyond exp in any dtype
    leaves = [t.clone().requires_grad_() for t in (q, k, v, cut)]
    out = decayed_product(*leaves, cut)
    assert out.isfinite().all()
    alone = decayed_product(q[:, :, 20:30], k[:, :, 20:30], v[:, :, 20:30], cut[:, :, 1:11] * 0)
    assert_close(decayed_product(q, k, v, cut)[:, :, 20:30], alone, rtol=1e-4, atol=1e-5)
    out.sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in leaves)


@pytest.mark.parametrize("features", [1, WIDTH])
def test_gradients_are_those_of_the_function(features: int) -> None:
    tokens = CHUNK_TOKENS + 2
    q, k, v, _ = (t[:1, :1] for t in inputs(1, 1, tokens, WIDTH))
    decays = [logarithms(n, tokens, features)[:1, :1] for n in ("forward", "backward")]
    leaves = [t.clone().requires_grad_() for t in (q, k, v, *decays)]
    assert torch.autograd.gradcheck(decayed_product, leaves, fast_mode=True)


def test_one_decay_for_all_items_of_a_batch() -> None:
    q, k, v, _ = inputs(2, 3, 70, WIDTH)
    one = logarithms("forward", 70, 1)[:1]
    every = one.expand(2, -1, -1, -1)
    assert_close(decayed_product(q, k, v, one, one), decayed_product(q, k, v, every, every))


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 127, 128, 129, 196, 784, 3136, 16_384])
def test_chunks_hold_all_tokens_with_little_to_spare(tokens: int) -> None:
    chunk, chunks = chunks_of(tokens)
    assert chunk <= CHUNK_TOKENS
    assert 0 <= chunk * chunks - tokens < chunks
    chunk, chunks = chunks_of(tokens, power_of_two=True)
    assert chunk & (chunk - 1) == 0
    assert chunk <= CHUNK_TOKENS
    assert 0 <= chunk * chunks - tokens < chunk
