"""rala against a dense matrix with every weight and rotation written out."""

from typing import Any

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
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.rala import RalaOptions
from bench.stimulus import normal

SPEC = load("rala")
SHAPES = [
    AttentionShape(2, Grid(3, 4), 2, 4),
    AttentionShape(1, Grid(1, 7), 1, 12),
    AttentionShape(2, Grid(4, 2), 3, 8),
]


def dense(q: Tensor, k: Tensor, v: Tensor, grid: Grid, options: RalaOptions) -> Tensor:
    """The sums of the definition over an N x N matrix."""
    f_q, f_k = positive(q), positive(k)
    if options.weighted_keys:
        scores = (f_k * f_q.mean(2, keepdim=True)).sum(-1) * q.shape[3] ** -0.5
        f_k = f_k * scores.softmax(-1).unsqueeze(-1) * k.shape[2]
    sums = (f_q @ f_k.mT).mean(-1, keepdim=True) + EPSILON
    if options.rotary:
        angles = angles_in_each_head(q.shape[1], q.shape[3])
        f_q, f_k = turned(f_q, grid, angles), turned(f_k, grid, angles)
    return f_q @ f_k.mT @ v / (k.shape[2] * sums)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        RalaOptions(),
        RalaOptions(rotary=False),
        RalaOptions(weighted_keys=False),
        RalaOptions(rotary=False, weighted_keys=False, local_residual=False),
    ],
    ids=str,
)
def test_the_linear_form_equals_the_dense_one(shape: AttentionShape, options: RalaOptions) -> None:
    q, k, v, x = qkvx(shape)
    mix = filled(SPEC, shape, options).mix
    want = dense(q, k, v, shape.grid, options)
    if options.local_residual:
        want = want + local_branch(mix, v, shape.grid)
    got = mix(q, k, v, x, shape.grid)
    assert_close(got, want, rtol=1e-9, atol=1e-11)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, want - 1e-4 * v, rtol=1e-9, atol=1e-11)


def test_rows_sum_to_one_without_rotation() -> None:
    shape = SHAPES[0]
    q, k, _, x = qkvx(shape)
    options = RalaOptions(rotary=False, local_residual=False)
    ones = torch.ones_like(q)
    assert_close(
        filled(SPEC, shape, options).mix(q, k, ones, x, shape.grid), ones, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_one_token_that_takes_the_whole_share_stays_finite(dtype: torch.dtype) -> None:
    shape = AttentionShape(1, Grid(64, 64), 1, 8)
    q, k, v, x = qkvx(shape)
    k[:, :, 5] = 60.0
    options = RalaOptions(local_residual=False)
    mix: Any = filled(SPEC, shape, options).mix
    rounded = [t.to(dtype).requires_grad_() for t in (q, k, v, x)]
    got = mix.to(dtype)(*rounded, shape.grid)
    got.float().sin().sum().backward()
    assert all(t.grad.isfinite().all() for t in rounded[:3])
    want = mix.double()(*(t.detach().double() for t in rounded), shape.grid)
    tolerance = 1e-2 if dtype == torch.float16 else 5e-2
    assert_close(got.double(), want, rtol=0, atol=tolerance * want.abs().max().item())


def test_the_layer_multiplies_by_its_gate() -> None:
    shape = SHAPES[0]
    layer = filled(SPEC, shape, RalaOptions())
    x = normal("x", (2, 12, 8), dtype=torch.float64)
    got = layer(x, shape.grid)
    assert_close(got, gated(layer, x, shape.grid), rtol=1e-10, atol=1e-12)
    layer.gate.weight.mul_(1.01)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(layer(x, shape.grid), got)


def test_what_cannot_be_rotated_is_refused() -> None:
    shape = AttentionShape(1, Grid(3, 3), 2, 6)
    with pytest.raises(UnsupportedShape, match="rotary=False"):
        SPEC.build(shape)
    assert SPEC.build(shape, RalaOptions(rotary=False)) is not None
