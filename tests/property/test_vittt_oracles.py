"""vittt against autograd, which differentiates the inner losses as they are written."""

from typing import Any

import pytest
import torch
from property.rotation_oracles import angles_across_heads, filled, qkvx, turned
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.vittt import VitttOptions
from bench.stimulus import normal

SPEC = load("vittt")
SHAPES = [
    AttentionShape(2, Grid(3, 4), 2, 4),
    AttentionShape(1, Grid(1, 7), 3, 4),
    AttentionShape(2, Grid(5, 1), 1, 8),
]


def stepped(weight: Tensor, loss: Tensor, axes: tuple[int, ...], step: float) -> Tensor:
    """One step down a loss, its gradient divided by its norm plus one."""
    (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
    return weight - step * gradient / (gradient.square().sum(axes, keepdim=True).sqrt() + 1)


def gated_model(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    gate = x @ second
    return (x @ first) * gate / (1 + (-gate).exp())


def trained(mix: Any, q: Tensor, k: Tensor, v: Tensor, step: float) -> Tensor:
    """Each head of each sequence for itself."""
    out = torch.empty_like(q)
    for item in range(q.shape[0]):
        for head in range(q.shape[1]):
            weights = [w[0, head].detach().requires_grad_() for w in (mix.first, mix.second)]
            keys, values = k[item, head], v[item, head]
            loss = -(gated_model(keys, *weights) * values).sum(1).mean() / 3
            ready = [stepped(w, loss, (0,), step) for w in weights]
            out[item, head] = gated_model(q[item, head], *ready).detach()
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("step", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rotary", [False, True])
def test_the_written_gradient_is_that_of_autograd(
    shape: AttentionShape, step: float, rotary: bool
) -> None:
    q, k, v, x = qkvx(shape)
    mix = filled(SPEC, shape, VitttOptions(step=step, rotary=rotary)).mix
    got = mix(q, k, v, x, shape.grid)
    if rotary:
        angles = angles_across_heads(shape.heads, shape.head_dim)
        q, k = turned(q, shape.grid, angles), turned(k, shape.grid, angles)
    assert_close(got, trained(mix, q, k, v, step), rtol=1e-9, atol=1e-13)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, trained(mix, q, k, v, step + 0.01), rtol=1e-9, atol=1e-13)


def test_without_a_step_values_play_no_part() -> None:
    shape = SHAPES[0]
    q, k, v, x = qkvx(shape)
    for step, same in ((0.0, True), (1.0, False)):
        mix = filled(SPEC, shape, VitttOptions(step=step)).mix
        moved = mix(q, k, v + 1, x, shape.grid)
        assert torch.equal(mix(q, k, v, x, shape.grid), moved) == same


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_inner_convolution_is_trained_by_autograd_too(shape: AttentionShape) -> None:
    layer = filled(SPEC, shape, VitttOptions())
    x = normal("x", (shape.batch, shape.tokens, shape.channels), dtype=torch.float64)
    streams = x @ layer.local_qkv.weight.T + layer.local_qkv.bias
    sides = (shape.grid.height, shape.grid.width)
    width = shape.head_dim
    q, k, v = (t.mT.unflatten(2, sides) for t in streams.chunk(3, 2))
    want = []
    for item in range(shape.batch):
        kernels = layer.kernels.detach().requires_grad_()
        found = F.conv2d(k[item : item + 1], kernels, padding=1, groups=width)[0]
        loss = -(found * v[item]).mean((1, 2)).sum() / 3
        ready = stepped(kernels, loss, (2, 3), 1.0)
        want.append(F.conv2d(q[item : item + 1], ready, padding=1, groups=width).detach())
    local = torch.cat(want).flatten(2).mT
    assert_close(layer.local(x, shape.grid)[:, 0], local, rtol=1e-9, atol=1e-12)
    mixed = layer.mix(*layer.project(x), x, shape.grid).transpose(1, 2).flatten(2)
    out = torch.cat((mixed, local), 2) @ layer.out.weight.T + layer.out.bias
    assert_close(layer(x, shape.grid), out, rtol=1e-9, atol=1e-12)


def test_it_is_not_linear_in_the_values() -> None:
    shape = SHAPES[0]
    q, k, v, x = qkvx(shape)
    mix = filled(SPEC, shape, VitttOptions()).mix
    once, twice = (mix(q, k, factor * v, x, shape.grid) for factor in (1, 2))
    none = mix(q, k, 0 * v, x, shape.grid)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(twice - none, 2 * (once - none), rtol=1e-3, atol=1e-9)


def test_what_cannot_be_rotated_is_refused() -> None:
    shape = AttentionShape(1, Grid(3, 3), 1, 6)
    with pytest.raises(UnsupportedShape, match="rotary=False"):
        SPEC.build(shape, VitttOptions(rotary=True))
    assert SPEC.build(shape) is not None
