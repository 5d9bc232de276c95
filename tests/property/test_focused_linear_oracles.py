"""focused_linear against what its mathematics must give."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.focused_linear import FocusedLinearOptions
from bench.stimulus import fill_parameters, normal

SPEC = load("focused_linear")
HEADS, WIDTH = 2, 4
CHANNELS = HEADS * WIDTH
EPSILON = 1e-6
PLAIN = FocusedLinearOptions(local_residual=False)


def built(grid: Grid, options: FocusedLinearOptions, batch: int = 2) -> nn.Module:
    layer = SPEC.build(AttentionShape(batch, grid, HEADS, WIDTH), options).double()
    fill_parameters(layer)
    return layer


def qkvx(grid: Grid, keys: int | None = None) -> list[Tensor]:
    sizes = {"q": grid.tokens, "k": keys or grid.tokens, "v": keys or grid.tokens}
    heads = [normal(n, (2, HEADS, t, WIDTH), dtype=torch.float64) for n, t in sizes.items()]
    return [*heads, normal("x", (2, grid.tokens, CHANNELS), dtype=torch.float64)]


def features(x: Tensor, scale: Tensor, power: float) -> Tensor:
    """f of the definition, step by step, for a token stream."""
    a = (F.relu(x) + EPSILON) / scale
    sharp = a**power
    return sharp * a.norm(dim=-1, keepdim=True) / sharp.norm(dim=-1, keepdim=True)


def heads_of(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, WIDTH)).transpose(1, 2)


def stream_of(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def dense(layer: Any, q: Tensor, k: Tensor, v: Tensor, options: FocusedLinearOptions) -> Tensor:
    """The N x M matrix of the definition times the values."""
    mix, keys = layer.mix, stream_of(k)
    one = torch.ones(1, 1, 1, dtype=q.dtype)
    scale = F.softplus(mix.scale) if options.learned_scale else one
    if options.position_encoding:
        keys = keys + mix.positional_encoding
    f_q, f_k = (features(t, scale, options.focusing_factor) for t in (stream_of(q), keys))
    scores = heads_of(f_q) @ heads_of(f_k).mT
    many = k.shape[2] if options.denominator == "mean" else 1
    return scores @ v / (scores.sum(-1, keepdim=True) + many * EPSILON)


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    power=st.sampled_from([1, 1.5, 2, 3, 4, 8]),
    position=st.booleans(),
    scale=st.booleans(),
    denominator=st.sampled_from(["mean", "sum"]),
)
def test_the_linear_form_equals_the_dense_one(
    rows: int, columns: int, power: float, position: bool, scale: bool, denominator: Any
) -> None:
    options = replace(
        PLAIN,
        focusing_factor=power,
        position_encoding=position,
        learned_scale=scale,
        denominator=denominator,
    )
    grid = Grid(rows, columns)
    q, k, v, x = qkvx(grid)
    layer = built(grid, options)
    got = layer.mix(q, k, v, x, grid)
    assert_close(got, dense(layer, q, k, v, options), rtol=1e-9, atol=1e-11)


def test_norms_of_single_heads_are_told_apart() -> None:
    grid = Grid(3, 3)
    q, k, v, x = qkvx(grid)
    layer = built(grid, PLAIN)
    with torch.no_grad():
        want = dense(layer, q, k, v, PLAIN)
        k[:, 1] *= 2  # the other head's keys enter the norm that the first head's are given
        assert_close(layer.mix(q, k, v, x, grid), dense(layer, q, k, v, PLAIN))
        with pytest.raises(AssertionError, match="not close"):
            assert_close(layer.mix(q, k, v, x, grid)[:, 0], want[:, 0])


def test_the_power_keeps_the_norm_and_sharpens() -> None:
    x = normal("x", (1, 5, CHANNELS), dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    soft, sharp = features(x, one, 1), features(x, one, 3)
    assert_close(sharp.norm(dim=-1), soft.norm(dim=-1), rtol=1e-12, atol=0)
    assert (sharp.amax(-1) > soft.amax(-1)).all()


@pytest.mark.parametrize("grid", [Grid(3, 4), Grid(1, 5), Grid(4, 1)], ids=str)
@pytest.mark.parametrize("side", [1, 3, 5])
@torch.no_grad()
def test_the_local_branch_equals_a_loop(grid: Grid, side: int) -> None:
    options = FocusedLinearOptions(local_size=side)
    q, k, v, x = qkvx(grid)
    layer = built(grid, options)
    found = layer.mix(q, k, v, x, grid) - dense(layer, q, k, v, options)
    weight, want = layer.mix.dwc.weight[:, 0], torch.zeros_like(v)
    image = v.unflatten(2, (grid.height, grid.width))
    for row in range(grid.height):
        for column in range(grid.width):
            at = row * grid.width + column
            want[:, :, at] = layer.mix.dwc.bias
            for i, j in ((i, j) for i in range(side) for j in range(side)):
                y, z = row + i - side // 2, column + j - side // 2
                if 0 <= y < grid.height and 0 <= z < grid.width:
                    want[:, :, at] += weight[:, i, j] * image[:, :, y, z]
    assert_close(found, want, rtol=1e-9, atol=1e-11)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(found, want.roll(1, 2), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("grid", "side"), [(Grid(4, 6), 2), (Grid(5, 4), 2), (Grid(6, 6), 3)])
@torch.no_grad()
def test_a_reduction_attends_to_patches(grid: Grid, side: int) -> None:
    options = replace(PLAIN, reduction=side)
    layer: Any = built(grid, options)
    x = qkvx(grid)[3]
    image = x.mT.unflatten(2, (grid.height, grid.width))
    shrunk = F.conv2d(image, layer.reduce.weight, layer.reduce.bias, stride=side)
    patches = F.layer_norm(
        shrunk.flatten(2).mT, (CHANNELS,), layer.norm.weight, layer.norm.bias, 1e-5
    )
    weight, bias = layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3)
    q, k, v = (
        heads_of(F.linear(t, w, b))
        for t, w, b in zip((x, patches, patches), weight, bias, strict=True)
    )
    want = layer.out(stream_of(dense(layer, q, k, v, options)))
    assert_close(layer(x, grid), want, rtol=1e-9, atol=1e-11)


def test_a_reduction_stretches_the_values_for_the_local_branch() -> None:
    grid = Grid(4, 4)
    options = FocusedLinearOptions(reduction=2, local_size=1)
    layer: Any = built(grid, options)
    q, k, v, x = qkvx(grid, 4)
    with torch.no_grad():
        found = layer.mix(q, k, v, x, grid) - dense(layer, q, k, v, options)
        found = (found - layer.mix.dwc.bias) / layer.mix.dwc.weight.view(-1)
    # token 0 lies before the middle of the first patch, token 5 at 11 / 8 of a patch
    assert_close(found[:, :, 0], v[:, :, 0], rtol=1e-8, atol=1e-10)
    between = v[:, :, 0] * (1 - 0.875) + v[:, :, 1] * 0.875
    assert_close(found[:, :, 5], between, rtol=1e-8, atol=1e-10)


def test_what_cannot_be_computed_is_refused() -> None:
    grid = Grid(4, 4)
    layer = built(grid, FocusedLinearOptions())
    with pytest.raises(UnsupportedShape, match="position_encoding=False"):
        layer(torch.zeros(2, 16, CHANNELS, dtype=torch.float64), Grid(2, 8))
    free = built(grid, FocusedLinearOptions(position_encoding=False))
    assert free(torch.zeros(2, 16, CHANNELS, dtype=torch.float64), Grid(2, 8)).shape[1] == 16
    tall = AttentionShape(1, Grid(16, 1), HEADS, WIDTH)
    with pytest.raises(UnsupportedShape, match="no patch of 2x2"):
        SPEC.build(tall, FocusedLinearOptions(reduction=2))
    unreduced = built(grid, replace(PLAIN, reduction=2))
    with pytest.raises(UnsupportedShape, match="16 keys, grid 4x4 with reduction 2 needs 4"):
        unreduced.mix(*qkvx(grid), grid)
    with pytest.raises(UnsupportedShape, match="grid 4x4 needs 16"):
        built(grid, FocusedLinearOptions(reduction=2))(torch.zeros(2, 15, CHANNELS), grid)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"focusing_factor": 0}, "focusing_factor is 0"),
        ({"local_size": 4}, "odd"),
        ({"reduction": 0}, "reduction is 0"),
        ({"denominator": "median"}, "denominator"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    # the type checker of the tests may come first: it knows the allowed words too
    with pytest.raises((ValueError, TypeError), match=said):
        replace(PLAIN, **wrong)


@pytest.mark.parametrize("reduction", [1, 2])
def test_gradients_are_those_of_the_function(reduction: int) -> None:
    grid = Grid(2, 4)
    layer = built(grid, FocusedLinearOptions(reduction=reduction, local_size=3), 1)
    x = qkvx(grid)[3][:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t, grid), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_holds_on_long_sequences(dtype: torch.dtype) -> None:
    grid = Grid(128, 128)
    layer = built(grid, FocusedLinearOptions(), 1).to(dtype)
    x = normal("x", (1, grid.tokens, CHANNELS)).to(dtype).requires_grad_()
    got = layer(x, grid)
    got.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    want = layer.double()(x.detach().double(), grid)
    assert_close(got.double(), want, rtol=0, atol=0.02 * want.abs().max().item())


def test_flops_of_a_reduction_are_those_counted() -> None:
    from bench.counting import torch_flops

    for grid, side in ((Grid(4, 6), 2), (Grid(5, 7), 3), (Grid(4, 4), 1)):
        options = FocusedLinearOptions(reduction=side)
        shape = AttentionShape(2, grid, HEADS, WIDTH)
        assert torch_flops(SPEC.build(shape, options), shape) == SPEC.flops(shape, options)
        assert SPEC.flops(shape, options) != SPEC.flops(shape, replace(options, local_size=3))
