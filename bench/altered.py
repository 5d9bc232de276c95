"""Mechanisms that differ from a variant of the tree in one thing, for ablations.

Any attention inside square windows of its grid, all with the same weights; linear attention with
each of InLine's feature maps.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from attention_impls.multihead import FunctionMix, MultiHead
from attention_impls.parts.linear_attention import normalised_product
from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from attention_impls.variants.inline import FEATURE_MAPS, KERNEL_SIDE


class Windowed(nn.Module):
    """An attention layer applied inside square windows of the grid."""

    def __init__(self, layer: nn.Module, side: int) -> None:
        super().__init__()
        self.layer = layer
        self.side = side

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Attend in each window on its own."""
        side, rows, columns = self.side, grid.height // self.side, grid.width // self.side
        parts = x.unflatten(1, (rows, side, columns, side)).transpose(2, 3)
        out = self.layer(parts.reshape(-1, side * side, x.shape[2]), Grid(side, side))
        out = out.view(len(x), rows, columns, side, side, -1).transpose(2, 3)
        return out.reshape(x.shape)


def windowed(spec: AttentionSpec, side: int) -> AttentionSpec:
    """Return the spec of the same layer inside windows of `side` x `side` tokens."""

    def make(shape: AttentionShape, options: Any) -> nn.Module:
        return Windowed(spec.build(shape.with_grid(Grid(side, side)), options), side)

    return replace(spec, make=make)


def windows(grid: Grid) -> tuple[int, ...]:
    """Return the sides of windows that tile a square grid, up to the grid itself.

    None is smaller than InLine's local residual: it would see the whole window.
    """
    return tuple(n for n in range(KERNEL_SIDE, grid.height + 1) if grid.height % n == 0)


def linear_with(feature_map: str) -> AttentionSpec:
    """Return linear attention with a feature map of InLine, rows divided by their sums."""
    spec = load("linear_relu")

    def mix(q: Tensor, k: Tensor, v: Tensor, *, epsilon: float) -> Tensor:
        return normalised_product(
            FEATURE_MAPS[feature_map](q), FEATURE_MAPS[feature_map](k), v, epsilon
        )

    def make(shape: AttentionShape, options: Any) -> nn.Module:
        function = FunctionMix(partial(mix, epsilon=options.epsilon))
        return MultiHead(shape, function, qkv_bias=options.qkv_bias)

    return replace(spec, make=make)
