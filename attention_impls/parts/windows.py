"""A grid cut into equal windows: tokens to windows and back, and who may see whom at the borders.

Where the windows do not fill the grid exactly, they reach over its border; places beyond it hold no
token and must be hidden by a bias (`absent_keys`, `same_region_bias`).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from attention_impls.shapes import Grid

Heads = Float[Tensor, "batch heads tokens head_dim"]
InWindows = Float[Tensor, "batch windows heads window_tokens head_dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Windows of `rows` x `columns` tokens over `grid`, row by row from the top left."""

    grid: Grid
    rows: int
    columns: int
    top: int = 0
    """Rows of the first windows that lie above the grid."""
    left: int = 0
    """Columns of the first windows that lie left of the grid."""

    @property
    def down(self) -> int:
        """Windows from top to bottom."""
        return math.ceil((self.grid.height + self.top) / self.rows)

    @property
    def across(self) -> int:
        """Windows from left to right."""
        return math.ceil((self.grid.width + self.left) / self.columns)

    @property
    def count(self) -> int:
        """Number of windows."""
        return self.down * self.across

    @property
    def tokens_each(self) -> int:
        """Places in one window."""
        return self.rows * self.columns

    @property
    def places(self) -> int:
        """Places in all windows: the tokens of the grid, and those beyond its border."""
        return self.count * self.tokens_each

    @property
    def fills(self) -> bool:
        """The windows fill the grid exactly."""
        return self.places == self.grid.tokens

    def framed(self, heads: Heads) -> Float[Tensor, "batch heads height width head_dim"]:
        """Return the map of tokens, with zeros beyond the border."""
        maps = heads.unflatten(2, (self.grid.height, self.grid.width))
        if self.fills:
            return maps
        below = self.down * self.rows - self.grid.height - self.top
        right = self.across * self.columns - self.grid.width - self.left
        return F.pad(maps, (0, 0, self.left, right, self.top, below))

    def cut(self, heads: Heads) -> InWindows:
        """Return the tokens window by window."""
        return self.cut_frame(self.framed(heads))

    def cut_frame(self, frame: Float[Tensor, "batch heads height width head_dim"]) -> InWindows:
        """Return a map from `framed` window by window."""
        split = frame.unflatten(3, (self.across, self.columns)).unflatten(2, (self.down, self.rows))
        return split.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(1, 2)

    def cut_maps(self, heads: Heads) -> Float[Tensor, "all_windows rows columns channels"]:
        """Return each window as a map whose channels lie together, as convolutions like it."""
        frame = self.framed(heads)
        split = frame.unflatten(3, (self.across, self.columns)).unflatten(2, (self.down, self.rows))
        return split.permute(0, 2, 4, 3, 5, 1, 6).flatten(5, 6).flatten(0, 2)

    def join_frame(self, windows: InWindows) -> Float[Tensor, "batch height width heads head_dim"]:
        """Put windows back in their places, those beyond the border included."""
        split = windows.unflatten(3, (self.rows, self.columns))
        split = split.unflatten(1, (self.down, self.across))
        return split.permute(0, 1, 4, 2, 5, 3, 6).flatten(1, 2).flatten(2, 3)

    def join(self, windows: InWindows) -> Heads:
        """Put windows back in their places and drop what lies beyond the border."""
        return self.cropped(self.join_frame(windows))

    def join_maps(self, maps: Float[Tensor, "batch windows window_tokens heads head_dim"]) -> Heads:
        """Put windows back whose channels lie together."""
        split = maps.unflatten(2, (self.rows, self.columns)).unflatten(1, (self.down, self.across))
        return self.cropped(split.permute(0, 1, 3, 2, 4, 5, 6).flatten(1, 2).flatten(2, 3))

    def cropped(self, frame: Float[Tensor, "batch height width heads head_dim"]) -> Heads:
        """Return the tokens of a map from `join_frame`."""
        if not self.fills:
            rows = slice(self.top, self.top + self.grid.height)
            columns = slice(self.left, self.left + self.grid.width)
            frame = frame[:, rows, columns]
        return frame.flatten(1, 2).transpose(1, 2)

    def absent_keys(self, like: Tensor) -> Float[Tensor, "windows 1 1 window_tokens"] | None:
        """Bias that hides places without a token; None where every place has one."""
        if self.fills:
            return None
        rows = _inside(self.down, self.rows, self.top, self.grid.height, like.device)
        columns = _inside(self.across, self.columns, self.left, self.grid.width, like.device)
        inside = rows[:, None, :, None] & columns[None, :, None, :]
        return minus_infinity(~inside, like).flatten(2).flatten(0, 1)[:, None, None]


def same_region_bias(
    rows: Float[Tensor, "down rows"], columns: Float[Tensor, "across columns"]
) -> Float[Tensor, "windows 1 window_tokens window_tokens"]:
    """Bias that lets a token see the tokens of its window in the same region.

    Args:
        rows: region of each row of each window.
        columns: region of each column of each window; tokens share a region when both agree.
    """
    by_row = rows[:, None, :, None, None] == rows[:, None, None, :, None]
    by_column = columns[None, :, :, None] == columns[None, :, None, :]
    # down, across, then rows and columns of the token that sees and of the one that is seen
    same = by_row.unsqueeze(3) & by_column[:, :, None, :, None, :]
    return minus_infinity(~same, rows).flatten(4, 5).flatten(2, 3).flatten(0, 1).unsqueeze(1)


def minus_infinity(where: Bool[Tensor, "*sizes"], like: Tensor) -> Float[Tensor, "*sizes"]:
    """Return a bias: -inf where `where` holds, 0 elsewhere."""
    zeros = torch.zeros(where.shape, dtype=like.dtype, device=like.device)
    return zeros.masked_fill(where, float("-inf"))


def _inside(
    count: int, side: int, before: int, length: int, device: torch.device
) -> Bool[Tensor, "count side"]:
    places = torch.arange(count * side, device=device).view(count, side) - before
    return (places >= 0) & (places < length)
