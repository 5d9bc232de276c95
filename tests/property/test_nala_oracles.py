"""nala against a dense matrix with features, signs and rotations written out."""

import math
from typing import Any

import pytest
import torch
from property.rotation_oracles import (
    EPSILON,
    angles_in_each_head,
    filled,
    local_branch,
    qkvx,
    turned,
)
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.nala import NalaOptions, query_features
from bench.stimulus import normal

SPEC = load("nala")
SHAPES = [
    AttentionShape(2, Grid(3, 4), 2, 4),
    AttentionShape(1, Grid(1, 6), 1, 12),
    AttentionShape(2, Grid(4, 2), 3, 8),
]


def features_of_query(q: list[float]) -> list[float]:
    """f of one query, number by number."""
    norm = math.sqrt(sum(z * z for z in q))
    power = 3 * (0.5 + math.tanh(norm))
    unit = [z / norm for z in q]
    return [max(z, 0.0) ** power for z in unit] + [max(-z, 0.0) ** power for z in unit]


def mapped(x: Tensor, function: Any) -> Tensor:
    """Apply a function of one token of one head to all."""
    rows = [function(row) for row in x.flatten(0, 2).tolist()]
    return torch.tensor(rows, dtype=x.dtype).view(*x.shape[:3], -1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rotary", [False, True])
def test_the_linear_form_equals_the_dense_one(shape: AttentionShape, rotary: bool) -> None:
    q, k, v, x = qkvx(shape)
    mix = filled(SPEC, shape, NalaOptions(rotary=rotary)).mix
    f_q = mapped(q, features_of_query)
    f_k = torch.cat((k.clamp(min=0), (-k).clamp(min=0)), -1) ** 3
    sums = (f_q @ f_k.mT).mean(-1, keepdim=True) + EPSILON
    if rotary:
        angles = angles_in_each_head(shape.heads, shape.head_dim, repeats=2)
        f_q, f_k = turned(f_q, shape.grid, angles), turned(f_k, shape.grid, angles)
    want = f_q @ f_k.mT @ v / (shape.tokens * sums) + local_branch(mix, v, shape.grid)
    got = mix(q, k, v, x, shape.grid)
    assert_close(got, want, rtol=1e-9, atol=1e-11)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, want - 1e-4 * v, rtol=1e-9, atol=1e-11)


def test_a_longer_query_has_sharper_features() -> None:
    q = normal("q", (1, 1, 5, 8), dtype=torch.float64)
    short, long = (query_features(factor * q) for factor in (0.01, 10))
    assert_close(short.count_nonzero(-1), long.count_nonzero(-1))
    ratio = [(t.amax(-1) / t.sum(-1)).min().item() for t in (short, long)]
    assert ratio[1] > ratio[0]


def test_a_query_that_is_zero_stays_finite() -> None:
    shape = SHAPES[0]
    q, k, v, x = qkvx(shape)
    q[:, :, 3] = 0
    leaves = [t.requires_grad_() for t in (q, k, v)]
    mix = filled(SPEC, shape, NalaOptions(local_residual=False)).mix
    out = mix(*leaves, x, shape.grid)
    out.sin().sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in leaves)
    assert out.isfinite().all()
    assert not out[:, :, 3].any()


@pytest.mark.parametrize("size", [1, 60])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close_for_large_keys_too(dtype: torch.dtype, size: int) -> None:
    shape = AttentionShape(1, Grid(24, 24), 2, 8)
    q, k, v, x = qkvx(shape)
    rounded = [t.to(dtype) for t in (q, size * k, v, x)]
    layer = filled(SPEC, shape, NalaOptions())
    want = layer.mix(*(t.double() for t in rounded), shape.grid)
    got = layer.to(dtype).mix(*rounded, shape.grid)
    tolerance = 4e-3 if dtype == torch.float16 else 2e-2
    assert_close(got.double(), want, rtol=0, atol=tolerance * want.abs().max().item())


def test_the_layer_normalises_and_gates() -> None:
    shape = SHAPES[0]
    layer = filled(SPEC, shape, NalaOptions())
    x = normal("x", (2, 12, 8), dtype=torch.float64)
    q, k, v = layer.project(x)
    mixed = layer.mix(q, k, v, x, shape.grid).transpose(1, 2).flatten(2)
    centred = mixed - mixed.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    normed = normed * layer.norm.weight + layer.norm.bias
    gate = F.silu(x @ layer.gate.weight.T + layer.gate.bias)
    want = (normed * gate) @ layer.out.weight.T + layer.out.bias
    assert_close(layer(x, shape.grid), want, rtol=1e-9, atol=1e-11)


def test_what_cannot_be_rotated_is_refused() -> None:
    shape = AttentionShape(1, Grid(3, 3), 2, 6)
    with pytest.raises(UnsupportedShape, match="rotary=False"):
        SPEC.build(shape)
    assert SPEC.build(shape, NalaOptions(rotary=False)) is not None
