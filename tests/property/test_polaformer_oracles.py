"""polaformer against two dense matrices, one for equal and one for opposite signs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from property.rotation_oracles import EPSILON, convolved, filled, gated, qkvx
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.polaformer import PolaformerOptions
from bench.stimulus import fill_parameters, normal

SPEC = load("polaformer")
HEADS, WIDTH = 2, 4
BARE = PolaformerOptions(local_residual=False)


def shape_of(grid: Grid, batch: int = 2) -> AttentionShape:
    return AttentionShape(batch, grid, HEADS, WIDTH)


def inputs(grid: Grid, keys: int | None = None) -> list[Tensor]:
    q, k, v, x = qkvx(shape_of(grid))
    if keys is None:
        return [q, k, v, x]
    return [q, *(normal(n, (2, HEADS, keys, WIDTH), dtype=torch.float64) for n in "kv"), x]


def dense(mix: Any, q: Tensor, k: Tensor, v: Tensor, options: PolaformerOptions) -> Tensor:
    """Both matrices of the definition, each times its half of the values."""
    sigma = F.softplus(mix.scale).view(1, 1, HEADS, WIDTH).transpose(1, 2)
    power = 1 + options.alpha / (1 + (-mix.power).exp())
    if options.position_encoding:
        k = k + mix.positional_encoding.view(1, -1, HEADS, WIDTH).transpose(1, 2)
    (q_up, q_down), (k_up, k_down) = (
        (F.relu(t / sigma) ** power, F.relu(-t / sigma) ** power) for t in (q, k)
    )
    same = q_up @ k_up.mT + q_down @ k_down.mT
    opposite = q_down @ k_up.mT + q_up @ k_down.mT
    halves = [
        weights @ half / (weights.sum(-1, keepdim=True) + k.shape[2] * EPSILON)
        for weights, half in zip((same, opposite), v.split(WIDTH // 2, 3), strict=True)
    ]
    return torch.cat(halves, 3)


@pytest.mark.parametrize("grid", [Grid(3, 4), Grid(1, 6), Grid(5, 1)], ids=str)
@pytest.mark.parametrize("alpha", [0.5, 4])
@pytest.mark.parametrize("position", [False, True])
def test_the_linear_form_equals_the_dense_ones(grid: Grid, alpha: float, position: bool) -> None:
    options = replace(BARE, alpha=alpha, position_encoding=position)
    q, k, v, x = inputs(grid)
    mix = filled(SPEC, shape_of(grid), options).mix
    got = mix(q, k, v, x, grid)
    assert_close(got, dense(mix, q, k, v, options), rtol=1e-9, atol=1e-11)
    exchanged = torch.cat(dense(mix, q, k, v, options).split(WIDTH // 2, 3)[::-1], 3)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, exchanged, rtol=1e-9, atol=1e-11)


def test_the_sign_of_a_query_exchanges_the_branches() -> None:
    grid = Grid(3, 4)
    q, k, v, x = inputs(grid)
    mix = filled(SPEC, shape_of(grid), BARE).mix
    twice = torch.cat((v[..., :2], v[..., :2]), 3)
    one, other = (mix(sign * q, k, twice, x, grid) for sign in (1, -1))
    assert_close(one, torch.cat(other.split(2, 3)[::-1], 3), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_the_local_branch_is_a_convolution_shared_by_the_heads(side: int) -> None:
    grid = Grid(3, 4)
    options = PolaformerOptions(local_size=side)
    q, k, v, x = inputs(grid)
    mix = filled(SPEC, shape_of(grid), options).mix
    weight = mix.dwc.weight.view(1, WIDTH, side, side).expand(HEADS, -1, -1, -1)
    local = convolved(v, weight, mix.dwc.bias.expand(HEADS, -1), grid)
    want = dense(mix, q, k, v, options) + local
    assert_close(mix(q, k, v, x, grid), want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("grid", "side"), [(Grid(4, 6), 2), (Grid(7, 5), 3)], ids=str)
def test_a_reduction_attends_to_patches(grid: Grid, side: int) -> None:
    options = replace(BARE, reduction=side)
    layer = filled(SPEC, shape_of(grid), options)
    q, k, v, x = inputs(grid, (grid.height // side) * (grid.width // side))
    got = layer.mix(q, k, v, x, grid)
    assert_close(got, dense(layer.mix, q, k, v, options), rtol=1e-9, atol=1e-11)
    gate = x @ layer.gate.weight.T + layer.gate.bias
    mixed = layer.mix(*layer.project_reduced(x, grid), x, grid).transpose(1, 2).flatten(2)
    want = (mixed * gate) @ layer.out.weight.T + layer.out.bias
    assert_close(layer(x, grid), want, rtol=1e-10, atol=1e-12)


def test_the_layer_multiplies_by_its_gate() -> None:
    grid = Grid(3, 4)
    layer = filled(SPEC, shape_of(grid), PolaformerOptions())
    x = normal("x", (2, 12, 8), dtype=torch.float64)
    assert_close(layer(x, grid), gated(layer, x, grid), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 60])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close_for_large_keys_too(dtype: torch.dtype, size: int) -> None:
    grid = Grid(24, 24)
    q, k, v, x = inputs(grid)
    rounded = [t.to(dtype) for t in (q, size * k, v, x)]
    layer = filled(SPEC, shape_of(grid), PolaformerOptions())
    fill_parameters(layer.to(dtype))
    got = layer.mix(*rounded, grid)
    want = layer.double().mix(*(t.double() for t in rounded), grid)
    tolerance = 4e-3 if dtype == torch.float16 else 2e-2
    assert_close(got.double(), want, rtol=0, atol=tolerance * want.abs().max().item())


def test_a_channel_without_keys_and_a_query_of_zero_stay_finite() -> None:
    grid = Grid(3, 4)
    for dtype in (torch.float32, torch.float16):
        layer = filled(SPEC, shape_of(grid), replace(BARE, position_encoding=False)).to(dtype)
        q, k, v, x = (t.to(dtype) for t in inputs(grid))
        q[:, :, 2], k[..., 1] = 0, 0
        leaves = [t.requires_grad_() for t in (q, k, v)]
        out = layer.mix(*leaves, x, grid)
        out.float().sin().sum().backward()
        assert out.isfinite().all()
        assert not out[:, :, 2].any()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in leaves)


def test_flops_of_a_reduction_are_those_counted() -> None:
    from bench.counting import fvcore_flops, torch_flops

    for grid, side in ((Grid(4, 6), 2), (Grid(5, 7), 3)):
        options = PolaformerOptions(reduction=side)
        layer = SPEC.build(shape_of(grid), options)
        assert torch_flops(layer, shape_of(grid)) == SPEC.flops(shape_of(grid), options)
        assert fvcore_flops(layer, shape_of(grid)).flops == SPEC.flops(shape_of(grid), options)


def test_what_cannot_be_computed_is_refused() -> None:
    grid = Grid(4, 4)
    layer = filled(SPEC, shape_of(grid), PolaformerOptions())
    x = torch.zeros(2, 16, 8, dtype=torch.float64)
    with pytest.raises(UnsupportedShape, match="position_encoding=False"):
        layer(x, Grid(2, 8))
    free = filled(SPEC, shape_of(grid), PolaformerOptions(position_encoding=False))
    assert free(x, Grid(2, 8)).shape == x.shape
    with pytest.raises(UnsupportedShape, match="must be even"):
        SPEC.build(AttentionShape(1, grid, 2, 5))
    with pytest.raises(UnsupportedShape, match="no patch of 2x2"):
        SPEC.build(shape_of(Grid(1, 9)), replace(BARE, reduction=2))
    with pytest.raises(UnsupportedShape, match="16 keys, grid 4x4 with reduction 2 needs 4"):
        filled(SPEC, shape_of(grid), replace(BARE, reduction=2)).mix(*inputs(grid), grid)
    for name, value in (("alpha", 0), ("local_size", 2), ("reduction", 0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            replace(BARE, **{name: value})
