"""mila against a dense matrix with every rotation written out."""

import pytest
import torch
from property.rotation_oracles import (
    EPSILON,
    angles_across_heads,
    convolved,
    filled,
    local_branch,
    positive,
    qkvx,
    turned,
)
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.mila import MilaOptions
from bench.stimulus import normal

SPEC = load("mila")
SHAPES = [
    AttentionShape(2, Grid(3, 4), 2, 4),
    AttentionShape(1, Grid(1, 7), 3, 4),
    AttentionShape(2, Grid(4, 2), 4, 2),
    AttentionShape(1, Grid(3, 3), 1, 8),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rotary", [False, True])
def test_the_linear_form_equals_the_dense_one(shape: AttentionShape, rotary: bool) -> None:
    q, k, v, x = qkvx(shape)
    mix = filled(SPEC, shape, MilaOptions(rotary=rotary)).mix
    f_q, f_k = positive(q), positive(k)
    sums = (f_q @ f_k.mT).mean(-1, keepdim=True) + EPSILON
    angles = angles_across_heads(shape.heads, shape.head_dim)
    if rotary:
        f_q, f_k = turned(f_q, shape.grid, angles), turned(f_k, shape.grid, angles)
    want = f_q @ f_k.mT @ v / (shape.tokens * sums) + local_branch(mix, v, shape.grid)
    got = mix(q, k, v, x, shape.grid)
    assert_close(got, want, rtol=1e-9, atol=1e-11)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, want - 1e-4 * v, rtol=1e-9, atol=1e-11)


def test_heads_turn_with_rows_or_with_columns() -> None:
    shape = AttentionShape(1, Grid(4, 4), 2, 4)
    q, k, v, x = qkvx(shape)
    same = [t[:, :, :1].expand_as(t).contiguous() for t in (q, k)]
    options = MilaOptions(local_residual=False)
    out = filled(SPEC, shape, options).mix(*same, v, x, shape.grid).unflatten(2, (4, 4))
    # equal queries differ by place alone: the first head by row, the second by column
    assert_close(out[:, 0, :, 0], out[:, 0, :, 3], rtol=1e-12, atol=0)
    assert_close(out[:, 1, 0], out[:, 1, 3], rtol=1e-12, atol=0)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(out[:, 0, 0], out[:, 0, 3])


@pytest.mark.parametrize("built_for", [Grid(3, 4), Grid(5, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kept_and_computed_rotations_agree(built_for: Grid, dtype: torch.dtype) -> None:
    shape = AttentionShape(2, Grid(3, 4), 2, 4)
    q, k, v, x = (t.to(dtype) for t in qkvx(shape))
    mix = filled(SPEC, shape.with_grid(built_for), MilaOptions()).mix
    want = filled(SPEC, shape, MilaOptions()).mix(*(t.double() for t in (q, k, v, x)), shape.grid)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    got = mix.to(dtype)(q, k, v, x, shape.grid)
    assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def test_half_precision_does_not_round_the_rotations() -> None:
    shape = AttentionShape(1, Grid(1, 2048), 1, 4)
    q, k, v, x = (t.half() for t in qkvx(shape))
    mix = filled(SPEC, shape, MilaOptions(local_residual=False)).mix
    want = mix(*(t.double() for t in (q, k, v, x)), shape.grid)
    got = mix.half()(q, k, v, x, shape.grid)
    assert_close(got.double(), want, rtol=0, atol=4e-3 * want.abs().max().item())


def test_the_layer_is_the_block_of_a_mamba() -> None:
    shape = AttentionShape(2, Grid(3, 4), 2, 4)
    layer = filled(SPEC, shape, MilaOptions())
    x = normal("x", (2, 12, 8), dtype=torch.float64)
    entered = (x @ layer.enter.weight.T + layer.enter.bias).unsqueeze(1)
    weight, bias = layer.convolution.weight.view(1, 8, 3, 3), layer.convolution.bias.view(1, 8)
    inner = F.silu(convolved(entered, weight, bias, shape.grid))[:, 0]
    q, k = (inner @ layer.qk.weight.T + layer.qk.bias).chunk(2, 2)
    q, k, v = (t.unflatten(2, (2, 4)).transpose(1, 2) for t in (q, k, inner))
    mixed = layer.mix(q, k, v, x, shape.grid).transpose(1, 2).flatten(2)
    gate = F.silu(x @ layer.gate.weight.T + layer.gate.bias)
    want = (mixed * gate) @ layer.out.weight.T + layer.out.bias
    assert_close(layer(x, shape.grid), want, rtol=1e-9, atol=1e-11)


def test_what_cannot_be_rotated_is_refused() -> None:
    for heads, head_dim in ((1, 6), (4, 3)):
        shape = AttentionShape(1, Grid(3, 3), heads, head_dim)
        with pytest.raises(UnsupportedShape, match="rotary=False"):
            SPEC.build(shape)
        assert SPEC.build(shape, MilaOptions(rotary=False)) is not None
