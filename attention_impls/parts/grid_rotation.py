"""Rotary positions on a grid: pairs of features turn with the row and the column of their token.

    (a, b) -> (a cos t - b sin t, a sin t + b cos t),    t = row f_i or column f_i

(a, b): two neighbouring features; f_i = base^(-i / steps): the frequency of pair i. The first half
of the pairs turns with the row, the second half with the column. The inner product of two turned
tokens depends on their offset (Su et al., 2021, https://arxiv.org/abs/2104.09864).
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from attention_impls.shapes import Grid

Features = Float[Tensor, "batch heads tokens features"]
Turns = Complex[Tensor, "#heads tokens pairs"]

BASE = 10000.0
"""Ratio of the fastest frequency to one `steps` further on."""


class GridRotation(nn.Module):
    """Turns features by their place on the grid; no parameters.

    The turns of the grid it was built for are kept, those of other grids are computed when needed.
    """

    bits: Tensor

    def __init__(
        self, grid: Grid, frequencies: int, *, steps: int, heads: int = 1, repeats: int = 1
    ) -> None:
        """Build.

        Args:
            grid: its turns are kept.
            frequencies: pairs that turn with the row, and as many with the column.
            steps: frequency i is 10000^(-i / steps).
            heads: the pairs are laid over this many heads in turn; 1: every head has all of them.
            repeats: times that the pairs follow each other along the features of a head.
        """
        super().__init__()
        self.grid = grid
        self.frequencies = frequencies
        self.steps = steps
        self.heads = heads
        self.repeats = repeats
        # as integers, which casting a module to half precision leaves as they are
        device = torch.get_default_device()
        if device.type != "meta":  # a network that is built without memory takes none here either
            device = torch.device("cpu")
        kept = torch.view_as_real(self.computed(grid, device).to(torch.complex64))
        self.register_buffer("bits", kept.view(torch.int32), persistent=False)

    def forward(self, x: Features, grid: Grid) -> Features:
        """Return x turned.

        Args:
            x: features in float32 or float64: half precision would round the angles' effect.
            grid: layout of the tokens, no extra tokens.
        """
        pairs = torch.view_as_complex(x.unflatten(3, (-1, 2)))
        return torch.view_as_real(pairs * self.turns(grid, x)).flatten(3)

    def turns(self, grid: Grid, like: Tensor) -> Turns:
        """Return cos t + i sin t for every pair, in the precision and on the device of `like`."""
        if like.dtype == torch.float64:
            return self.computed(grid, like.device)
        if grid != self.grid:
            return self.computed(grid, like.device).to(torch.complex64)
        # a network that was cast to channels_last has this buffer laid out anew
        return torch.view_as_complex(self.bits.contiguous().view(torch.float32))

    def computed(self, grid: Grid, device: torch.device) -> Turns:
        """Compute the turns of `grid` in double precision."""
        double = torch.float64
        place = torch.arange(max(grid.height, grid.width), dtype=double, device=device)
        order = torch.arange(self.frequencies, dtype=double, device=device)
        angles = torch.outer(place, BASE ** (order / -self.steps))
        turns = torch.polar(torch.ones_like(angles), angles)
        rows = turns[: grid.height, None].expand(-1, grid.width, -1)
        columns = turns[None, : grid.width].expand(grid.height, -1, -1)
        table = torch.cat((rows, columns) * self.repeats, 2).flatten(0, 1)
        return table.unflatten(1, (self.heads, -1)).transpose(0, 1).contiguous()


def rotation_in_each_head(grid: Grid, head_dim: int, *, repeats: int = 1) -> GridRotation:
    """Return the same rotation for every head, its last frequency being 1/10000.

    Args:
        grid: its turns are kept.
        head_dim: a multiple of 4 (`head_rotation_limits`); `repeats` times as many features turn.
        repeats: times that the pairs follow each other along the features of a head.
    """
    frequencies = head_dim // 4
    return GridRotation(grid, frequencies, steps=max(1, frequencies - 1), repeats=repeats)


def head_rotation_limits(head_dim: int) -> tuple[str, ...]:
    """Why heads of `head_dim` channels cannot turn by row and by column."""
    if head_dim % 4 == 0:
        return ()
    return (f"head_dim is {head_dim}, rotary positions need a multiple of 4; or use rotary=False",)


def rotation_across_heads(grid: Grid, heads: int, head_dim: int) -> GridRotation:
    """Return a rotation laid over all channels, so that heads differ in what they turn with.

    Args:
        grid: its turns are kept.
        heads: number of heads; the first half of all channels turns with the row.
        head_dim: channels of a head; see `channel_rotation_limits`.
    """
    frequencies = heads * head_dim // 4
    return GridRotation(grid, frequencies, steps=frequencies, heads=heads)


def channel_rotation_limits(heads: int, head_dim: int) -> tuple[str, ...]:
    """Why `heads` heads of `head_dim` channels cannot share rows and columns between them."""
    if heads * head_dim % 4 == 0 and head_dim % 2 == 0:
        return ()
    return (
        (
            f"{heads} heads of {head_dim} channels: rotary positions need a multiple of 4 channels "
            "in heads of an even number; or use rotary=False"
        ),
    )
