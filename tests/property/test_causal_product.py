"""Chunked sums over earlier tokens against a masked matrix."""

import pytest
import torch
from torch.testing import assert_close

from attention_impls.parts.causal_product import causal_product, ones_beside
from bench.stimulus import normal


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 128, 150])
def test_equals_a_masked_matrix(tokens: int) -> None:
    q, k = (normal(n, (2, 3, tokens, 5), dtype=torch.float64) for n in "qk")
    v = normal("v", (2, 3, tokens, 7), dtype=torch.float64)
    weights = (q @ k.mT).tril()
    assert_close(causal_product(q, k, v), weights @ v)
    sums = causal_product(q, k, ones_beside(v))
    assert_close(sums[..., :-1], weights @ v)
    assert_close(sums[..., -1], weights.sum(-1))
    if tokens > 1:
        with pytest.raises(AssertionError, match="not close"):
            assert_close(causal_product(q, k, v), (q @ k.mT).tril(-1) @ v)
