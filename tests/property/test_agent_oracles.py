"""agent against matrices and loops, and its backend against the reference."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.agent import AgentOptions
from bench.stimulus import fill_parameters, normal

SPEC = load("agent")
HEADS, WIDTH = 2, 4
CHANNELS = HEADS * WIDTH
FEW = AgentOptions(landmarks=4)


def built(grid: Grid, options: AgentOptions, extra: int = 0) -> nn.Module:
    layer = SPEC.build(AttentionShape(2, grid, HEADS, WIDTH, extra), options).double()
    fill_parameters(layer)
    return layer.requires_grad_(requires_grad=False)


def qkvx(tokens: int, keys: int | None = None) -> list[Tensor]:
    sizes = {"q": tokens, "k": keys or tokens, "v": keys or tokens}
    heads = [normal(n, (2, HEADS, t, WIDTH), dtype=torch.float64) for n, t in sizes.items()]
    return [*heads, normal("x", (2, tokens, CHANNELS), dtype=torch.float64)]


def parts(length: int, count: int) -> list[range]:
    """Places of each part: from floor(i length / count) to ceil((i + 1) length / count)."""
    return [range(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def pooled(q: Tensor, grid: Grid, side: int) -> Tensor:
    """Means over the parts of the grid, one after the other."""
    return torch.stack(
        [
            torch.stack([q[:, :, r * grid.width + c] for r in rows for c in columns]).mean(0)
            for rows in parts(grid.height, side)
            for columns in parts(grid.width, side)
        ],
        2,
    )


def resized(coarse: Tensor, grid: Grid) -> Tensor:
    """Bilinear interpolation between cell centres: [heads, agents, 7, 7] to the grid."""

    def weights(length: int) -> Tensor:
        found = torch.zeros(length, 7, dtype=torch.float64)
        for i in range(length):
            at = max((i + 0.5) * 7 / length - 0.5, 0.0)
            low = min(int(at), 6)
            found[i, low] += 1 - (at - low)
            found[i, min(low + 1, 6)] += at - low
        return found

    return weights(grid.height) @ coarse @ weights(grid.width).T


def biases(mix: Any, grid: Grid, keys: Grid) -> tuple[Tensor, Tensor]:
    """B_k [heads, agents, tokens] and B_q [heads, tokens, agents], class tokens first."""
    key, query = mix.key_bias, mix.query_bias
    over_keys = (resized(key.coarse, keys) + key.rows[0] + key.columns[0]).flatten(2)
    over_queries = resized(query.coarse, grid).flatten(2).mT
    over_queries = over_queries + (query.rows[0] + query.columns[0]).flatten(1, 2)
    if key.extra is not None:
        over_keys = torch.cat((key.extra[0], over_keys), 2)
        over_queries = torch.cat((query.extra[0], over_queries), 1)
    return over_keys, over_queries


def matrix(mix: Any, q: Tensor, k: Tensor, grid: Grid, keys: Grid, side: int) -> Tensor:
    """The product of both softmax matrices, tokens x keys."""
    extra = q.shape[2] - grid.tokens
    agents = pooled(q[:, :, extra:], grid, side)
    over_keys, over_queries = (
        biases(mix, grid, keys) if mix.key_bias is not None else (torch.zeros(()), torch.zeros(()))
    )
    gather = (agents @ k.mT * WIDTH**-0.5 + over_keys).softmax(-1)
    read = (q @ agents.mT * WIDTH**-0.5 + over_queries).softmax(-1)
    return read @ gather


@pytest.mark.parametrize("grid", [Grid(5, 6), Grid(1, 9), Grid(8, 1), Grid(2, 2)], ids=str)
@pytest.mark.parametrize("agents", [1, 4, 9])
@pytest.mark.parametrize(("position", "extra"), [(True, 0), (True, 2), (False, 1)])
def test_equals_the_product_of_two_softmax_matrices(
    grid: Grid, agents: int, position: bool, extra: int
) -> None:
    options = AgentOptions(landmarks=agents, position_bias=position, local_residual=False)
    mix = built(grid, options, extra).mix
    q, k, v, x = qkvx(grid.tokens + extra)
    weights = matrix(mix, q, k, grid, grid, int(agents**0.5))
    got = mix(q, k, v, x, grid)
    assert_close(got, weights @ v, rtol=1e-9, atol=1e-11)
    assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=1e-12, atol=0)
    assert torch.linalg.matrix_rank(weights).max() <= agents
    if position and agents > 1:
        for bias in (mix.key_bias, mix.query_bias):
            kept = bias.coarse.clone()
            bias.coarse += normal("noise", tuple(kept.shape))
            with pytest.raises(AssertionError, match="not close"):
                assert_close(mix(q, k, v, x, grid), got)
            bias.coarse.copy_(kept)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_local_branch_is_a_convolution_of_grid_tokens(extra: int) -> None:
    grid = Grid(3, 4)
    mix = built(grid, FEW, extra).mix
    bare = built(grid, replace(FEW, local_residual=False), extra).mix
    bare.load_state_dict({n: t for n, t in mix.state_dict().items() if n in bare.state_dict()})
    q, k, v, x = qkvx(grid.tokens + extra)
    found = mix(q, k, v, x, grid) - bare(q, k, v, x, grid)
    weight, bias = mix.local.weight.view(HEADS, WIDTH, 3, 3), mix.local.bias.view(HEADS, WIDTH)
    want = torch.zeros_like(v)
    for i in range(grid.tokens):
        want[:, :, extra + i] += bias
        for j in range(grid.tokens):
            down, right = j // 4 - i // 4, j % 4 - i % 4
            if max(abs(down), abs(right)) <= 1:
                want[:, :, extra + i] += v[:, :, extra + j] * weight[:, :, 1 + down, 1 + right]
    assert_close(found, want, rtol=1e-9, atol=1e-11)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(found, want.roll(1, 2), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("grid", "side"), [(Grid(4, 6), 2), (Grid(7, 5), 3)], ids=str)
def test_a_reduction_attends_to_patches(grid: Grid, side: int) -> None:
    options = replace(FEW, reduction=side, local_residual=False)
    keys = Grid(grid.height // side, grid.width // side)
    layer: Any = built(grid, options)
    q, k, v, x = qkvx(grid.tokens, keys.tokens)
    want = matrix(layer.mix, q, k, grid, keys, 2) @ v
    assert_close(layer.mix(q, k, v, x, grid), want, rtol=1e-9, atol=1e-11)
    assert layer(x, grid).shape == x.shape


def test_what_cannot_be_computed_is_refused() -> None:
    grid = Grid(4, 4)
    layer = built(grid, FEW)
    with pytest.raises(UnsupportedShape, match="position_bias=False"):
        layer(torch.zeros(2, 16, CHANNELS, dtype=torch.float64), Grid(2, 8))
    free = built(grid, replace(FEW, position_bias=False))
    assert free(torch.zeros(2, 16, CHANNELS, dtype=torch.float64), Grid(2, 8)).shape[1] == 16
    with pytest.raises(UnsupportedShape, match="no patch of 2x2"):
        SPEC.build(AttentionShape(1, Grid(1, 9), HEADS, WIDTH), replace(FEW, reduction=2))
    with pytest.raises(UnsupportedShape, match="class tokens with a reduction"):
        SPEC.build(AttentionShape(1, grid, HEADS, WIDTH, 1), replace(FEW, reduction=2))
    with pytest.raises(UnsupportedShape, match="16 keys, grid 4x4 with reduction 2 needs 4"):
        built(grid, replace(FEW, reduction=2)).mix(*qkvx(16), grid)
    for wrong, said in (
        ({"landmarks": 8}, "square"),
        ({"landmarks": 0}, "square"),
        ({"reduction": 0}, "reduction is 0"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(FEW, **wrong)


def test_flops_of_a_reduction_are_those_counted() -> None:
    from bench.counting import fvcore_flops, torch_flops

    for grid, side in ((Grid(4, 6), 2), (Grid(5, 7), 3)):
        options = replace(FEW, reduction=side)
        shape = AttentionShape(2, grid, HEADS, WIDTH)
        layer = SPEC.build(shape, options)
        assert torch_flops(layer, shape) == SPEC.flops(shape, options)
        assert fvcore_flops(layer, shape).flops == SPEC.flops(shape, options)
        assert SPEC.flops(shape, options) != SPEC.flops(shape, replace(options, landmarks=9))


def test_training_and_inference_give_the_same() -> None:
    grid = Grid(5, 5)
    layer = built(grid, FEW, 1)
    x = normal("x", (2, 26, CHANNELS), dtype=torch.float64)
    assert_close(
        layer(x.clone().requires_grad_(), grid).detach(), layer(x, grid), rtol=1e-12, atol=1e-14
    )
