"""The matrices of SOFT: affinities between tokens and landmarks, on smooth fields and in networks.

Smooth random fields on the grid (sums of sines, as neighbouring tokens of an image are alike) stand
for queries where nothing is trained; they are the same on every machine. A convolution is nothing
without learning, so it is fitted, with its LayerNorm, to the error of the low-rank matrix (ridge
0.01, exact inverse) on other fields, and judged on this one like the rest. It ends with a GELU,
which leaves no negative entries to speak of: such landmarks can be near queries only if these have
learned to come to them, which is what trained networks show.

Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", NeurIPS 2021,
https://arxiv.org/abs/2110.11945; Lu et al., "Softmax-free Linear Transformers", IJCV 2024,
https://arxiv.org/abs/2207.03341 (normalisation).
"""

import math
from functools import cache
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from attention_impls.parts.gaussian import gaussian_affinities
from attention_impls.parts.landmarks import GridLandmarks
from attention_impls.parts.newton import ridged
from attention_impls.registry import load
from attention_impls.shapes import Grid
from bench.attention_matrix import Given

SIDE, HEADS, HEAD_DIM = 18, 4, 32
"""Of the fields: rows and columns of the grid, heads and their channels."""
RIDGE = 0.01
"""Published."""
FIT_STEPS, FIT_RATE = 150, 3e-3
"""Adam steps that the convolution is fitted for, each on another field, and their rate."""
Sampling = Literal["conv", "average_pool", "random", "biased"]
SAMPLINGS: tuple[Sampling, ...] = ("conv", "average_pool", "random", "biased")
"""By the convolution of the authors' code, averages, random tokens, the first tokens."""
Variant = Literal["soft", "soft_norm"]
VARIANTS: tuple[Variant, ...] = ("soft", "soft_norm")


class Affinities(NamedTuple):
    """Gaussian affinities of one set of queries, one matrix for each head."""

    tokens: Tensor
    """S [matrices, tokens, tokens]."""
    to_landmarks: Tensor
    """K [matrices, tokens, landmarks]."""
    landmarks: Tensor
    """A [matrices, landmarks, landmarks]."""

    def error(self, inverse: Tensor) -> float:
        """Mean of |S - K inverse K^T|_F / |S|_F."""
        low = self.to_landmarks @ inverse @ self.to_landmarks.mT
        difference = (self.tokens - low).norm(dim=(1, 2))
        return float((difference / self.tokens.norm(dim=(1, 2))).mean())


def smooth_field(grid: Grid, seed: int = 0) -> Tensor:
    """Return queries [heads, tokens, head_dim] that vary smoothly over the grid, in float64.

    Every channel is a sum of eight plane waves with up to two periods a side, scaled to one.
    """
    draws = torch.Generator().manual_seed(seed)
    waves = torch.rand(8, 4, HEADS, HEAD_DIM, generator=draws, dtype=torch.float64)
    rows = torch.arange(grid.height, dtype=torch.float64).repeat_interleave(grid.width)
    columns = torch.arange(grid.width, dtype=torch.float64).repeat(grid.height)
    places = torch.stack([rows / grid.height, columns / grid.width])
    field = torch.zeros(HEADS, grid.tokens, HEAD_DIM, dtype=torch.float64)
    for wave in waves:
        turns = 4 * math.pi * (wave[:2] - 0.5)
        angle = torch.einsum("rhd,rn->hnd", turns, places) + 2 * math.pi * wave[2][:, None]
        field += wave[3][:, None] * angle.sin()
    return field / field.std()


def landmarks(queries: Tensor, grid: Grid, count: int, sampling: Sampling) -> Tensor:
    """Return `count` landmarks [heads, count, head_dim], scaled as SOFT scales them."""
    if sampling == "biased":
        return queries[:, :count] * HEAD_DIM**-0.25
    if sampling == "conv":
        sample = fitted(grid, count, FIT_STEPS)
        with torch.no_grad():
            return sample(queries, grid)
    return _sample(grid, count, sampling)(queries, grid)


def _sample(
    grid: Grid, count: int, sampling: Literal["conv", "average_pool", "random"]
) -> GridLandmarks:
    return GridLandmarks(
        grid, HEAD_DIM, sampling=sampling, rule="fixed", landmarks=count, stride=1, seed=0
    )


@cache
def fitted(grid: Grid, count: int, steps: int) -> GridLandmarks:
    """Return landmarks by a convolution whose low-rank matrices are near S, on fields 1, 2, ..."""
    torch.manual_seed(0)
    sample = _sample(grid, count, "conv").double()
    optimizer = torch.optim.Adam(sample.parameters(), FIT_RATE)
    for step in range(steps):
        queries = smooth_field(grid, seed=1 + step)
        whole, to_marks, between = affinities(queries, sample(queries, grid))
        low = to_marks @ torch.linalg.solve(ridged(between, RIDGE), to_marks.mT)
        loss = ((whole - low).norm(dim=(1, 2)) / whole.norm(dim=(1, 2))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sample


def affinities(queries: Tensor, marks: Tensor) -> Affinities:
    """Return S, K and A of queries and their landmarks, both [matrices, ..., channels]."""
    scale = queries.shape[-1] ** -0.25
    return Affinities(
        tokens=gaussian_affinities(queries, queries * scale, scale),
        to_landmarks=gaussian_affinities(queries, marks, scale),
        landmarks=gaussian_affinities(marks, marks, 1.0),
    )


def of_field(grid: Grid, count: int, sampling: Sampling) -> Affinities:
    """Return the matrices of the smooth field on `grid`."""
    queries = smooth_field(grid)
    return affinities(queries, landmarks(queries, grid, count, sampling))


@torch.no_grad()
def of_layer(given: list[Given]) -> Affinities:
    """Return the matrices of a trained layer, all images together, with its own landmarks."""
    found: list[Affinities] = []
    for one in given:
        sample = cast("nn.Module", one.mix.landmarks)
        found.append(affinities(one.q[0], sample(one.q[0], one.grid)))
    return Affinities(*(torch.cat(t) for t in zip(*found, strict=True)))


def own_ridge(variant: Variant) -> float:
    """Return what `variant` adds to the diagonal of A."""
    return float(getattr(load(variant).options, "ridge", 0.0))


def residual(matrix: Tensor, inverse: Tensor) -> float:
    """Mean over heads of |A V A - A|_2 / |A|_2."""
    difference = torch.linalg.matrix_norm(matrix @ inverse @ matrix - matrix, 2)
    return float((difference / torch.linalg.matrix_norm(matrix, 2)).mean())


def started(variant: Variant, matrix: Tensor, ridge: float) -> Tensor:
    """Return the first iterate by the rule of one variant."""
    row_sums = matrix.sum(-1).amax(-1)
    if variant == "soft":
        return (1.8 / row_sums.square())[:, None, None] * ridged(matrix, ridge)
    whole = ridged(matrix, ridge)
    alpha = 2 / whole.sum(-1).amax(-1).square()
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    for _ in range(10):
        grown = identity - alpha[:, None, None] * whole @ whole
        too_large = grown.abs().sum(-2).amax(-1) > 1.01
        if not too_large.any():
            break
        alpha = torch.where(too_large, alpha / 2, alpha)
    return alpha[:, None, None] * whole
