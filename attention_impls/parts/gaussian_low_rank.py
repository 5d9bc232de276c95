"""Gaussian attention through landmarks: what the softmax-free mechanisms share.

S ~ K inv(A) K^T with K = affinities of the tokens to m landmarks [N, m], A = affinities between
landmarks [m, m]; the output is S V, evaluated right to left, plus a local convolution of V.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.parts.gaussian import gaussian_affinities
from attention_impls.parts.headwise_conv import headwise_conv, headwise_conv_flops
from attention_impls.parts.landmarks import (
    GridLandmarks,
    LandmarkRule,
    LandmarkSampling,
    landmark_count,
    landmark_window,
)
from attention_impls.parts.newton import Matrices, newton_flops
from attention_impls.shapes import AttentionShape, Grid

Heads = Float[Tensor, "batch heads tokens head_dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianLowRankOptions:
    """Options that all softmax-free mechanisms have; defaults are those of the third stage."""

    landmark_sampling: LandmarkSampling = "conv"
    """`conv` (strided convolution, LayerNorm, GELU), `average_pool`, or `random` tokens."""
    landmark_rule: LandmarkRule = "fixed"
    """`fixed`: `landmarks` on every grid, linear in tokens. `stride`: one for each stride x stride
    tokens, as the authors' code has it; their number grows with the grid."""
    landmarks: int = 49
    """Landmarks under the rule `fixed`: 49 is 7 x 7."""
    stride: int = 2
    """Side of a landmark's square under the rule `stride`: 8, 4, 2 in stages of 56, 28, 14."""
    newton_steps: int = 20
    """Steps of the iterative inverse."""
    local_size: int = 3
    """Side of the convolution over V: 9, 5, 3 in stages of 56, 28, 14; 0: none."""
    seed: int = 0
    """Which tokens `random` takes: the same ones in every call on the same grid."""
    qkv_bias: bool = True
    """The projections of queries and values have a bias."""

    def __post_init__(self) -> None:
        for name in ("landmarks", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be >= 1")
        if self.newton_steps < 0:
            raise ValueError(f"newton_steps is {self.newton_steps}, must be >= 0")
        if self.local_size < 0 or (self.local_size and self.local_size % 2 == 0):
            raise ValueError(f"local_size is {self.local_size}, must be 0 or odd")


class GaussianLowRank(nn.Module):
    """The mix. Parameters: `landmarks.*` and `local` [heads, 1, size, size] (if there is one)."""

    def __init__(
        self,
        shape: AttentionShape,
        options: GaussianLowRankOptions,
        inverse: Callable[[Matrices], Matrices],
    ) -> None:
        """Build.

        Args:
            shape: sizes; the grid decides the size of the landmark convolution.
            options: how landmarks are taken, size of the local convolution.
            inverse: maps A to the matrix that stands for its inverse.
        """
        super().__init__()
        self.scale = shape.head_dim**-0.25
        self.inverse = inverse
        self.landmarks = GridLandmarks(
            shape.grid,
            shape.head_dim,
            sampling=options.landmark_sampling,
            rule=options.landmark_rule,
            landmarks=options.landmarks,
            stride=options.stride,
            seed=options.seed,
        )
        self.local = None
        if side := options.local_size:
            self.local = nn.Parameter(torch.empty(shape.heads, 1, side, side))
            # as nn.Conv2d: uniform with variance 1 / (3 * fan-in)
            nn.init.uniform_(self.local, -1 / side, 1 / side)

    def forward(
        self,
        q: Heads,
        k: Heads,  # noqa: ARG002
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Mix `v`; the keys are the queries, `k` and `x` play no part."""
        batch, heads, tokens, head_dim = q.shape
        # distances cancel and the inverse amplifies: half precision is not enough for either
        exact = torch.promote_types(q.dtype, torch.float32)
        points = q.reshape(batch * heads, tokens, head_dim)
        landmarks = self.landmarks(points, grid).to(exact)
        with without_autocast(q.device.type):
            affinities = gaussian_affinities(points.to(exact), landmarks, self.scale)
            between = gaussian_affinities(landmarks, landmarks, 1.0)
            values = v.reshape(batch * heads, tokens, head_dim).to(exact)
            summary = torch.bmm(affinities.transpose(1, 2), values)
            mixed = torch.bmm(affinities, torch.bmm(self.inverse(between), summary))
        mixed = mixed.to(q.dtype).unflatten(0, (batch, heads))
        return mixed if self.local is None else headwise_conv(v, self.local, grid) + mixed


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Return a context whose products are as exact as their inputs, whatever the caller chose."""
    # entering a context costs microseconds: only where there is something to switch off
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def official_gaussian_names() -> dict[str, str]:
    """Return the authors' parameter names below their attention module -> ours below the mix."""
    return {
        "attn.Qlandmark_op.weight": "landmarks.conv.weight",
        "attn.Qnorm_act.0.weight": "landmarks.norm.weight",
        "attn.Qnorm_act.0.bias": "landmarks.norm.bias",
        "attn.conv.weight": "local",
    }


def gaussian_landmarks(grid: Grid, options: GaussianLowRankOptions) -> int:
    """Return the number of landmarks m on `grid`."""
    return landmark_count(
        grid,
        options.landmark_sampling,
        options.landmark_rule,
        options.landmarks,
        options.stride,
    )


def gaussian_limits(shape: AttentionShape, options: GaussianLowRankOptions) -> tuple[str, ...]:
    """Return why `shape` cannot be computed."""
    side = min(shape.grid.height, shape.grid.width)
    if options.landmark_rule == "stride" and side < options.stride:
        return (
            (
                f"grid {shape.grid} is smaller than one landmark of {options.stride}x"
                f"{options.stride} tokens: use a smaller stride or landmark_rule='fixed'"
            ),
        )
    return ()


def gaussian_order(options: GaussianLowRankOptions) -> float:
    """Exponent in tokens: 1; with m growing like N the inverse's m^3 decides."""
    return 1.0 if options.landmark_rule == "fixed" else 3.0


def gaussian_state(shape: AttentionShape, options: GaussianLowRankOptions) -> int:
    """Numbers a query needs: the landmarks and inv(A) K^T V, m C each."""
    return 2 * gaussian_landmarks(shape.grid, options) * shape.channels


def gaussian_core_flops(shape: AttentionShape, options: GaussianLowRankOptions) -> int:
    """FLOPs of one mix.

    2 B h (3 N m d + 2 m^2 d + 2 T m^3) + 2 B h m r^2 d^2 + 2 B N C s^2 with m landmarks, T Newton
    steps, r^2 = area of the landmark convolution (sampling `conv`), s = local_size.
    """
    matrices = shape.batch * shape.heads
    tokens, width = shape.grid.tokens, shape.head_dim
    count = gaussian_landmarks(shape.grid, options)
    flops = 2 * matrices * (3 * tokens * count * width + 2 * count**2 * width)
    flops += newton_flops(matrices, count, options.newton_steps)
    if options.landmark_sampling == "conv":
        rows, columns = landmark_window(
            shape.grid, options.landmark_rule, options.landmarks, options.stride
        )
        flops += 2 * matrices * count * rows * columns * width**2
    area = options.local_size**2
    return flops + headwise_conv_flops(shape.batch, tokens, shape.channels, area)
