"""linformer against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from bench.stimulus import normal

SPEC = load("linformer")
GRID = Grid(3, 8)
SHAPE = AttentionShape(2, GRID, 3, 4)
X = normal("x", (2, 24, 12), dtype=torch.float64)


def qkv() -> list[Tensor]:
    return [normal(name, (2, 3, 24, 4), dtype=torch.float64) for name in "qkv"]


def with_maps(keys: Tensor, values: Tensor) -> Tensor:
    layer = SPEC.build(SHAPE, replace(SPEC.options, projected_tokens=keys.shape[1])).double()
    with torch.no_grad():
        layer.mix.keys.copy_(keys)
        layer.mix.values.copy_(values)
    return layer.mix(*qkv(), X, GRID)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / 2, -1) @ v


def test_identity_maps_give_softmax_attention() -> None:
    eye = torch.eye(24, dtype=torch.float64)
    want = softmax_attention(*qkv())
    torch.testing.assert_close(with_maps(eye, eye), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(with_maps(eye, eye.flip(0)), want)


def test_averaging_maps_give_softmax_attention_over_averages() -> None:
    pairs = torch.eye(12, dtype=torch.float64).repeat_interleave(2, 0) / 2
    q, k, v = qkv()
    means = (t.unflatten(2, (12, 2)).mean(3) for t in (k, v))
    torch.testing.assert_close(with_maps(pairs, pairs), softmax_attention(q, *means))


def test_shared_maps_are_one_parameter() -> None:
    shared = SPEC.build(SHAPE, replace(SPEC.options, sharing="keys_values", projected_tokens=5))
    apart = SPEC.build(SHAPE, replace(SPEC.options, projected_tokens=5))
    assert [n for n, _ in shared.mix.named_parameters()] == ["keys"]
    with torch.no_grad():
        apart.mix.keys.copy_(shared.mix.keys)
        apart.mix.values.copy_(shared.mix.keys)
    inputs = [t.float() for t in (*qkv(), X)]
    torch.testing.assert_close(shared.mix(*inputs, GRID), apart.mix(*inputs, GRID))


@pytest.mark.parametrize("grid", [Grid(8, 3), Grid(3, 7), Grid(4, 8)])
def test_another_grid_is_refused_even_with_as_many_tokens(grid: Grid) -> None:
    layer = SPEC.build(SHAPE)
    with pytest.raises(UnsupportedShape, match="build a layer for each grid"):
        layer(torch.zeros(2, grid.tokens, 12), grid)


def test_more_projected_tokens_than_tokens_are_computed_and_said() -> None:
    layer = SPEC.build(SHAPE, replace(SPEC.options, projected_tokens=100))
    assert layer(X.float(), GRID).shape == X.shape
    assert any("exceed the number of tokens" in sentence for sentence in SPEC.deviations)
