"""linear_relu: what its feature map alone brings with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from property.linear_oracles import mixed, qkv
from torch.testing import assert_close


def test_a_query_without_a_positive_channel_gives_zero_and_finite_gradients() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        q, k, v = (t.clone().requires_grad_() for t in qkv(40, dtype))
        dead = q.detach().abs().neg().requires_grad_()
        out = mixed("linear_relu", dead, k, v)
        assert torch.equal(out, torch.zeros_like(out))
        out.sum().backward()
        for tensor in (dead, k, v):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()


@given(factor=st.floats(0.1, 10))
def test_the_length_of_a_query_is_not_seen(factor: float) -> None:
    q, k, v = qkv(12)
    want = mixed("linear_relu", q, k, v)
    assert_close(mixed("linear_relu", q * factor, k, v), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mixed("linear_relu", q.roll(1, -1), k, v), want, rtol=1e-5, atol=1e-6)
