"""circulant against its sums over places and shifts, written as loops without a transform."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.circulant import CirculantOptions
from bench.stimulus import fill_parameters, normal


def shifted(image: Tensor, m: int, grid: Grid) -> Tensor:
    """What lies m places on, around the ends of rows and columns: [..., height, width]."""
    return image.roll((-(m // grid.width), -(m % grid.width)), (-2, -1))


def looped(q: Tensor, k: Tensor, v: Tensor, grid: Grid, *, shared: bool) -> Tensor:
    """Tensors are [batch, heads, tokens, head_dim]."""
    q, k, v = (t.mT.unflatten(-1, (grid.height, grid.width)) for t in (q, k, v))
    alike = (
        torch.stack([(q * shifted(k, m, grid)).sum((-2, -1)) for m in range(grid.tokens)], -1)
        / grid.tokens**0.5
    )
    if shared:
        alike = alike.sum(2, keepdim=True) / q.shape[2] ** 0.5
    weights = alike.exp() / alike.exp().sum(-1, keepdim=True)
    out = torch.zeros_like(v)
    for m in range(grid.tokens):
        out += weights[..., m, None, None] * shifted(v, m, grid)
    return out.flatten(-2).mT


@pytest.mark.parametrize(
    "grid", [Grid(1, 1), Grid(4, 4), Grid(3, 5), Grid(2, 7), Grid(1, 9), Grid(9, 1)], ids=str
)
@pytest.mark.parametrize("shared", [False, True])
def test_equals_the_loops(grid: Grid, shared: bool) -> None:
    shape = AttentionShape(batch=2, grid=grid, heads=2, head_dim=4)
    mix = load("circulant").build(shape, CirculantOptions(shared_maps=shared)).mix
    q, k, v = (normal(name, (2, 2, grid.tokens, 4), dtype=torch.float64) for name in "qkv")
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), grid)
    torch.testing.assert_close(got, looped(q, k, v, grid, shared=shared))
    if grid.tokens > 1:
        for other in (
            looped(k, q, v, grid, shared=shared),
            looped(q, k, v, grid, shared=not shared),
        ):
            with pytest.raises(AssertionError, match="not close"):
                torch.testing.assert_close(got, other)


def test_the_layer_gates_what_the_mix_gives() -> None:
    shape = AttentionShape(batch=2, grid=Grid(3, 5), heads=2, head_dim=4)
    layer = load("circulant").build(shape)
    fill_parameters(layer)
    layer.double().requires_grad_(requires_grad=False)
    x = normal("x", (2, 15, 8), dtype=torch.float64)
    q, k, v = F.linear(x, layer.qkv.weight).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    mixed = looped(q, k, v, shape.grid, shared=False).transpose(1, 2).flatten(2)
    gate = F.linear(x, layer.gate.weight, layer.gate.bias)
    torch.testing.assert_close(layer(x, shape.grid), layer.out(mixed * gate * gate.sigmoid()))
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(layer(x, shape.grid), layer.out(mixed))


def test_moving_the_image_around_its_ends_moves_the_output() -> None:
    grid = Grid(3, 5)
    shape = AttentionShape(batch=2, grid=grid, heads=2, head_dim=4)
    mix = load("circulant").build(shape).mix
    q, k, v = (normal(name, (2, 2, 15, 4), dtype=torch.float64) for name in "qkv")
    x = v.transpose(1, 2).flatten(2)

    def moved(t: Tensor) -> Tensor:
        return shifted(t.mT.unflatten(-1, (3, 5)), 7, grid).flatten(-2).mT

    want = moved(mix(q, k, v, x, grid))
    torch.testing.assert_close(mix(moved(q), moved(k), moved(v), x, grid), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mix(moved(q), moved(k), v, x, grid), want)
