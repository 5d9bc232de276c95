"""sima against a dense product of queries and keys whose columns have unit l1 norm."""

import pytest
import torch
from torch.nn import functional as F

from attention_impls import AttentionShape, Grid, load
from bench.stimulus import normal


@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_equals_the_dense_product(tokens: int) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=8)
    mix = load("sima").build(shape).mix
    q, k, v = (normal(name, (2, 3, tokens, 8), dtype=torch.float64) for name in "qkv")
    queries, keys = F.normalize(q, p=1, dim=2), F.normalize(k, p=1, dim=2)
    torch.testing.assert_close(queries.abs().sum(2), torch.ones_like(queries[:, :, 0]))
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), shape.grid)
    torch.testing.assert_close(got, (queries @ keys.mT) @ v)
    if tokens > 1:
        by_channel = F.normalize(q, p=1, dim=3) @ F.normalize(k, p=1, dim=3).mT @ v
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(got, by_channel)
