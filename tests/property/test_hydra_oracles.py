"""hydra against linear attention with as many heads as channels, written token by token."""

import pytest
import torch

from attention_impls import AttentionShape, Grid, load
from bench.stimulus import normal


@pytest.mark.parametrize("causal", [False, True])
def test_equals_heads_of_width_one(causal: bool) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, 9), heads=2, head_dim=4, causal=causal)
    mix = load("hydra").build(shape).mix
    sizes = (2, 9, 8)
    q, k, v = (normal(name, sizes, dtype=torch.float64) for name in "qkv")
    want = torch.zeros_like(v)
    for i in range(9):
        for j in range(i + 1 if causal else 9):
            want[:, i] += (
                q[:, i]
                / q[:, i].norm(dim=1, keepdim=True)
                * (k[:, j] / k[:, j].norm(dim=1, keepdim=True) * v[:, j])
            )
    heads = [t.unflatten(2, (2, 4)).transpose(1, 2) for t in (q, k, v)]
    got = mix(*heads, v, shape.grid).transpose(1, 2).flatten(2)
    torch.testing.assert_close(got, want)
    # norms over a head's own channels would be another mechanism
    unit_q, unit_k = (t / t.norm(dim=3, keepdim=True) for t in heads[:2])
    weighted = unit_k * heads[2]
    gathered = weighted.cumsum(2) if causal else weighted.sum(2, keepdim=True)
    other = (unit_q * gathered).transpose(1, 2).flatten(2)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(got, other)


def test_the_length_of_a_token_plays_no_part() -> None:
    shape = AttentionShape(batch=1, grid=Grid(3, 4), heads=2, head_dim=4)
    mix = load("hydra").build(shape).mix
    q, k, v = (normal(name, (1, 2, 12, 4), dtype=torch.float64) for name in "qkv")
    x = v.transpose(1, 2).flatten(2)
    lengths = normal("lengths", (1, 1, 12, 1), dtype=torch.float64).abs() + 0.1
    want = mix(q, k, v, x, shape.grid)
    torch.testing.assert_close(mix(q * lengths, k * lengths, v, x, shape.grid), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mix(q, k, v * lengths, x, shape.grid), want)
