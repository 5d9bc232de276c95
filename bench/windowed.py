"""Any attention inside square windows of its grid, all with the same weights."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec


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
    """Return the sides of windows that tile a square grid, from 2 up to the grid itself."""
    return tuple(side for side in range(2, grid.height + 1) if grid.height % side == 0)
