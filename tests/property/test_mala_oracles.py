"""mala against a dense matrix, and against linear attention plus a covariance."""

import pytest
import torch
from property.rotation_oracles import (
    EPSILON,
    angles_in_each_head,
    filled,
    gated,
    local_branch,
    positive,
    qkvx,
    turned,
)
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.mala import MalaOptions
from bench.stimulus import normal

SPEC = load("mala")
SHAPES = [
    AttentionShape(2, Grid(3, 4), 2, 4),
    AttentionShape(1, Grid(1, 7), 1, 12),
    AttentionShape(2, Grid(4, 2), 3, 8),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rotary", [False, True])
def test_the_linear_form_equals_the_dense_one(shape: AttentionShape, rotary: bool) -> None:
    q, k, v, x = qkvx(shape)
    mix = filled(SPEC, shape, MalaOptions(rotary=rotary)).mix
    scale, tokens = shape.head_dim**-0.5, shape.tokens
    f_q, f_k = positive(q), positive(k)
    z = (f_q @ f_k.mT).sum(-1, keepdim=True) * scale / tokens
    if rotary:
        angles = angles_in_each_head(shape.heads, shape.head_dim)
        f_q, f_k = turned(f_q, shape.grid, angles), turned(f_k, shape.grid, angles)
    weights = scale / tokens * (1 + 1 / (z + EPSILON)) * (f_q @ f_k.mT) - z / tokens
    want = weights @ v + local_branch(mix, v, shape.grid)
    got = mix(q, k, v, x, shape.grid)
    assert_close(got, want, rtol=1e-9, atol=1e-11)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, want - 1e-4 * v, rtol=1e-9, atol=1e-11)


def test_without_rotation_it_is_linear_attention_plus_a_covariance() -> None:
    shape = SHAPES[0]
    q, k, v, x = qkvx(shape)
    mix = filled(SPEC, shape, MalaOptions(rotary=False, local_residual=False)).mix
    f_q, f_k = positive(q), positive(k)
    weights = f_q @ f_k.mT
    linear = weights @ v / weights.sum(-1, keepdim=True)
    centred = (f_k - f_k.mean(2, keepdim=True)).mT @ (v - v.mean(2, keepdim=True))
    covariance = f_q @ centred * shape.head_dim**-0.5 / shape.tokens
    assert_close(mix(q, k, v, x, shape.grid), linear + covariance, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, x, shape.grid), linear, rtol=1e-4, atol=1e-6)


def test_a_larger_query_has_sharper_weights() -> None:
    shape = SHAPES[0]
    q, k, v, x = qkvx(shape)
    mix = filled(SPEC, shape, MalaOptions(rotary=False, local_residual=False)).mix
    # features of large queries grow with them
    one, ten = (mix(20 + q + t, k, v, x, shape.grid) for t in (0, 200))
    spread = [(t - v.mean(2, keepdim=True)).abs().mean() for t in (one, ten)]
    assert spread[1] > 3 * spread[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    shape = AttentionShape(1, Grid(32, 32), 1, 8)
    rounded = [t.to(dtype) for t in qkvx(shape)]
    mix = filled(SPEC, shape, MalaOptions())
    want = mix.mix(*(t.double() for t in rounded), shape.grid)
    got = mix.to(dtype).mix(*rounded, shape.grid)
    tolerance = 4e-3 if dtype == torch.float16 else 2e-2
    assert_close(got.double(), want, rtol=0, atol=tolerance * want.abs().max().item())


def test_the_layer_multiplies_by_its_gate() -> None:
    shape = SHAPES[0]
    layer = filled(SPEC, shape, MalaOptions())
    x = normal("x", (2, 12, 8), dtype=torch.float64)
    assert_close(layer(x, shape.grid), gated(layer, x, shape.grid), rtol=1e-10, atol=1e-12)


def test_what_cannot_be_rotated_is_refused() -> None:
    shape = AttentionShape(1, Grid(3, 3), 2, 6)
    with pytest.raises(UnsupportedShape, match="rotary=False"):
        SPEC.build(shape)
    assert SPEC.build(shape, MalaOptions(rotary=False)) is not None
