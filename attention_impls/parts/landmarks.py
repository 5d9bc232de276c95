"""Landmarks of a grid of tokens: a few points that stand for all of them."""

import math
import random
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.shapes import Grid, UnsupportedShape

LandmarkSampling = Literal["conv", "average_pool", "random"]
LandmarkRule = Literal["fixed", "stride"]

LARGEST_WINDOW = 8
"""Largest side of the landmark convolution under the rule `fixed`: that of the first stage."""


def landmark_grid(grid: Grid, rule: LandmarkRule, landmarks: int, stride: int) -> Grid:
    """Return the rows and columns of landmarks on `grid`.

    Rule `fixed`: at most `landmarks`, as close to a square as the grid allows (49 is 7 x 7 on
    every grid with sides of 7 or more, 1 x 49 on a sequence), each token its own landmark where
    the grid has no more tokens than that. Rule `stride`: whole steps of `stride` tokens.

    Raises:
        UnsupportedShape: a side of the grid is shorter than `stride`.
    """
    height, width = grid.height, grid.width
    if rule == "stride":
        if min(height, width) < stride:
            raise UnsupportedShape(
                f"grid {grid} is smaller than one landmark of {stride}x{stride} tokens; "
                "use a smaller stride or landmark_rule='fixed'"
            )
        return Grid(height // stride, width // stride)
    if height * width <= landmarks:
        return grid
    short = min(height, width, math.isqrt(landmarks))
    long = min(max(height, width), landmarks // short)
    return Grid(short, long) if height <= width else Grid(long, short)


def landmark_count(
    grid: Grid, sampling: LandmarkSampling, rule: LandmarkRule, landmarks: int, stride: int
) -> int:
    """Return how many landmarks `grid` has."""
    if sampling == "random" and rule == "fixed":
        return min(landmarks, grid.tokens)
    return landmark_grid(grid, rule, landmarks, stride).tokens


def landmark_window(grid: Grid, rule: LandmarkRule, landmarks: int, stride: int) -> tuple[int, int]:
    """Return the sides of the landmark convolution of a module built for `grid`.

    Rule `fixed`: as many whole tokens as there are per landmark, at most `LARGEST_WINDOW`.
    """
    if rule == "stride":
        return stride, stride
    cells = landmark_grid(grid, rule, landmarks, stride)
    return (
        min(grid.height // cells.height, LARGEST_WINDOW),
        min(grid.width // cells.width, LARGEST_WINDOW),
    )


@torch.compiler.assume_constant_result
def sampled_tokens(tokens: int, count: int, seed: int) -> tuple[int, ...]:
    """Return `count` different token indices in order, a function of the arguments alone."""
    return _drawn(tokens, count, seed)


@cache
def _drawn(tokens: int, count: int, seed: int) -> tuple[int, ...]:
    return tuple(sorted(random.Random(seed).sample(range(tokens), count)))


class GridLandmarks(nn.Module):
    """Landmarks from queries: strided convolution, average pooling or a fixed random choice.

    Parameters (sampling `conv` only, shared by the heads): `conv.weight` [head_dim, head_dim, rows,
    columns] with stride = size, `norm` (LayerNorm over head_dim), then GELU.
    """

    def __init__(
        self,
        grid: Grid,
        head_dim: int,
        *,
        sampling: LandmarkSampling,
        rule: LandmarkRule,
        landmarks: int,
        stride: int,
        seed: int,
    ) -> None:
        """Build for `grid`; other grids work too and keep the window of this one.

        Args:
            grid: decides the size of the convolution under rule `fixed`.
            head_dim: channels of a head.
            sampling: how a landmark comes from the tokens it stands for.
            rule: see `landmark_grid`.
            landmarks: number of landmarks under rule `fixed`.
            stride: side of a landmark's square of tokens under rule `stride`.
            seed: of the random choice.
        """
        super().__init__()
        self.sampling = sampling
        self.rule: LandmarkRule = rule
        self.landmarks = landmarks
        self.stride = stride
        self.seed = seed
        self.scale = head_dim**-0.25
        if sampling == "conv":
            window = landmark_window(grid, rule, landmarks, stride)
            self.conv = nn.Conv2d(head_dim, head_dim, window, stride=window, bias=False)
            self.norm = nn.LayerNorm(head_dim)

    def forward(
        self, points: Float[Tensor, "matrices tokens head_dim"], grid: Grid
    ) -> Float[Tensor, "matrices landmarks head_dim"]:
        """Return the landmarks of `points` * head_dim^-1/4."""
        if self.sampling == "random":
            count = landmark_count(grid, "random", self.rule, self.landmarks, self.stride)
            chosen = torch.tensor(sampled_tokens(grid.tokens, count, self.seed))
            return points.index_select(1, chosen.to(points.device)) * self.scale
        cells = landmark_grid(grid, self.rule, self.landmarks, self.stride)
        image = points.unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
        if self.sampling == "average_pool":
            return self._pool(image, cells).flatten(2).transpose(1, 2) * self.scale
        if self.rule == "fixed":
            rows, columns = self.conv.kernel_size
            image = self._pool(image, Grid(cells.height * rows, cells.width * columns))
        # the convolution is linear: scaling its few outputs is scaling its many inputs
        sampled = self.conv(image).flatten(2).transpose(1, 2) * self.scale
        return F.gelu(self.norm(sampled))

    def _pool(self, image: Tensor, cells: Grid) -> Tensor:
        if self.rule == "stride":
            return F.avg_pool2d(image, self.stride)
        if image.shape[2:] == (cells.height, cells.width):
            return image
        return F.adaptive_avg_pool2d(image, (cells.height, cells.width))
