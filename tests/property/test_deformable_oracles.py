"""deformable against one point and one pair at a time."""

import math
from dataclasses import replace

import pytest
import torch
from property.grid_oracles import filled, inputs
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.deformable import DeformableOptions

SPEC = load("deformable")
WIDTH = 3
OPTIONS = DeformableOptions(offset_size=3)


def bilinear(maps: Tensor, row: float, column: float) -> Tensor:
    """`maps` [channels, height, width] at a place, 0 beyond the border."""
    total = torch.zeros(maps.shape[0], dtype=maps.dtype)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < maps.shape[1] and 0 <= c < maps.shape[2]:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * maps[:, r, c]
    return total


def offsets(layer: nn.Module, q: Tensor, options: DeformableOptions) -> Tensor:
    """f for one group: [2, rows, columns]; `q` is [channels of the group, height, width]."""
    conv, norm = layer.offset_conv, layer.offset_norm
    seen = F.conv2d(
        q[None], conv.weight, conv.bias, options.stride, options.padding, groups=q.shape[0]
    )
    normed = F.layer_norm(seen[0].permute(1, 2, 0), (q.shape[0],), norm.weight, norm.bias)
    return (F.gelu(normed) @ layer.offset_out.weight.T).permute(2, 0, 1)


def point(offset: float, m: int, count: int, length: int, limit: float | None) -> float:
    """Place of point `m` of `count`, in tokens."""
    reference = 2 * (m + 0.5) / (count - 1) - 1
    if limit is None:
        place = min(1.0, max(-1.0, reference + offset))
    else:
        place = reference + math.tanh(offset) * limit / (count - 1)
    return (place + 1) / 2 * (length - 1)


def reference(
    layer: nn.Module, x: Tensor, grid: Grid, heads: int, options: DeformableOptions
) -> Tensor:
    """The output for one sequence [N, C]."""
    weights, biases = layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3)
    q = (x @ weights[0].T + biases[0]).T.unflatten(1, (grid.height, grid.width))
    image = x.T.unflatten(1, (grid.height, grid.width))
    share = math.gcd(heads, options.group_heads)
    sampled, biases_of_heads = [], []
    for group in range(heads // share):
        own = slice(group * share * WIDTH, (group + 1) * share * WIDTH)
        found = offsets(layer, q[own], options)
        rows, columns = found.shape[1:]
        points = [
            (
                point(found[0, m, n].item(), m, rows, grid.height, options.offset_range),
                point(found[1, m, n].item(), n, columns, grid.width, options.offset_range),
            )
            for m in range(rows)
            for n in range(columns)
        ]
        sampled.append(torch.stack([bilinear(image[own], *p) for p in points]))
        if layer.position_bias is not None:
            table = layer.position_bias[group * share : (group + 1) * share]
            pairs = [
                torch.stack([
                    bilinear(table, i - r + grid.height - 1, j - c + grid.width - 1)
                    for r, c in points
                ], 1)
                for i in range(grid.height)
                for j in range(grid.width)
            ]  # fmt: skip
            biases_of_heads.append(torch.stack(pairs, 1))
    keys_from = torch.cat(sampled, 1)
    k, v = (keys_from @ w.T + b for w, b in zip(weights[1:], biases[1:], strict=True))
    mixed = []
    for h in range(heads):
        own = slice(h * WIDTH, (h + 1) * WIDTH)
        scores = q[own].flatten(1).T @ k[:, own].T / WIDTH**0.5
        if biases_of_heads:
            scores = scores + torch.cat(biases_of_heads)[h]
        mixed.append(scores.softmax(-1) @ v[:, own])
    return torch.cat(mixed, 1) @ layer.out.weight.T + layer.out.bias


CASES = [
    (Grid(4, 6), 2, OPTIONS),
    (Grid(5, 4), 3, OPTIONS),
    (Grid(4, 4), 2, replace(OPTIONS, group_heads=1, stride=1)),
    (Grid(6, 4), 2, replace(OPTIONS, offset_size=2)),
    (Grid(5, 5), 2, replace(OPTIONS, offset_range=2)),
    (Grid(4, 6), 2, replace(OPTIONS, offset_range=4.5)),
    (Grid(4, 6), 2, replace(OPTIONS, position_bias=False)),
]


@pytest.mark.parametrize(("grid", "heads", "options"), CASES)
def test_equals_one_pair_at_a_time(grid: Grid, heads: int, options: DeformableOptions) -> None:
    layer = filled(SPEC, grid, heads, WIDTH, options)
    x = inputs(grid, heads, WIDTH)[3]
    want = torch.stack([reference(layer, item, grid, heads, options) for item in x])
    assert_close(layer(x, grid), want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "change", [{"offset_range": 2}, {"group_heads": 1}, {"position_bias": False}], ids=str
)
def test_other_options_are_another_function(change: dict[str, object]) -> None:
    grid = Grid(4, 6)
    x = inputs(grid, 2, WIDTH)[3]
    layer = filled(SPEC, grid, 2, WIDTH, OPTIONS)
    other = replace(OPTIONS, **change)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(layer(x, grid), filled(SPEC, grid, 2, WIDTH, other)(x, grid))


def test_points_beyond_the_grid_see_zeros() -> None:
    grid, options = Grid(4, 4), replace(OPTIONS, offset_range=8)
    layer = filled(SPEC, grid, 2, WIDTH, options)
    q = inputs(grid, 2, WIDTH)[3]
    rows, columns = layer.places(q, grid)
    assert min(rows.min(), columns.min()) < 0
    assert max(rows.max(), columns.max()) > 3
    kept = filled(SPEC, grid, 2, WIDTH, OPTIONS).places(q, grid)
    assert all(place.min() >= 0 and place.max() <= 3 for place in kept)


@pytest.mark.parametrize("grid", [Grid(1, 9), Grid(9, 2), Grid(1, 1)], ids=str)
def test_too_few_reference_points_are_refused_at_build_and_call(grid: Grid) -> None:
    with pytest.raises(UnsupportedShape, match="reference points, needs 2x2"):
        SPEC.build(AttentionShape(1, grid, 2, WIDTH), OPTIONS)
    free = replace(OPTIONS, position_bias=False)
    layer = SPEC.build(AttentionShape(1, Grid(6, 6), 2, WIDTH), free)
    with pytest.raises(UnsupportedShape, match="reference points, needs 2x2"):
        layer(torch.zeros(1, grid.tokens, 2 * WIDTH), grid)


def test_without_a_position_bias_a_layer_works_on_other_grids() -> None:
    free = replace(OPTIONS, position_bias=False)
    layer = filled(SPEC, Grid(6, 6), 2, WIDTH, free)
    x = inputs(Grid(4, 5), 2, WIDTH)[3]
    want = filled(SPEC, Grid(4, 5), 2, WIDTH, free)(x, Grid(4, 5))
    assert_close(layer(x, Grid(4, 5)), want, rtol=0, atol=0)


@pytest.mark.parametrize(
    "change",
    [{"stride": 0}, {"offset_size": 0}, {"group_heads": 0}, {"offset_range": -1}],
    ids=str,
)
def test_options_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(OPTIONS, **change)
