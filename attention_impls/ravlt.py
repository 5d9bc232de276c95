"""Blocks of RAVLT: factors a channel, a convolution for positions, softmax under RALA's gate.

Fan, Huang, He, "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025,
https://arxiv.org/abs/2411.07635, and its published code; the networks are in backbones/rala.py.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.blocks import Stream, TakesAttentionApart, maps_of, tokens_of
from attention_impls.multihead import MultiHead, merge_heads
from attention_impls.parts.grid_rotation import rotation_in_each_head
from attention_impls.parts.local_convolution import channel_convolution, convolve_channels
from attention_impls.pyramid import Stage
from attention_impls.shapes import AttentionShape, Grid

LAST_CHANNELS = 1024
"""Width of what is classified."""
LOCAL_SIZE = 5
"""Rows and columns of the convolution of the values beside softmax attention."""


class ConvolvedMlp(nn.Module):
    """Linear, GELU, x + 3x3 depthwise convolution, linear."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, inner)
        self.convolution = nn.Conv2d(inner, inner, 3, 1, 1, groups=inner)
        self.narrow = nn.Linear(inner, channels)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Map the tokens of `grid`."""
        inner = F.gelu(self.widen(x))
        return self.narrow(inner + tokens_of(self.convolution(maps_of(inner, grid))))


class ScaledBlock(nn.Module):
    """x + conv(x), x + g attention(norm(x)), x + h mlp(norm(x)).

    Parameters: `place`, `attention_norm`, `attention`, `attention_factor`, `mlp_norm`, `mlp`,
    `mlp_factor`.
    """

    def __init__(self, attention: nn.Module, stage: Stage, epsilon: float) -> None:
        super().__init__()
        channels = stage.channels
        self.place = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.attention_norm = nn.LayerNorm(channels, eps=epsilon)
        self.attention = attention
        self.attention_factor = nn.Parameter(torch.ones(channels))
        self.mlp_norm = nn.LayerNorm(channels, eps=epsilon)
        self.mlp = ConvolvedMlp(channels, stage.mlp_channels)
        self.mlp_factor = nn.Parameter(torch.ones(channels))

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Apply all three branches."""
        x = x + tokens_of(self.place(maps_of(x, grid)))
        x = x + self.attention_factor * self.attend(self.attention_norm(x), grid)
        return x + self.mlp_factor * self.mlp(self.mlp_norm(x), grid)

    def attend(self, x: Stream, grid: Grid) -> Stream:
        """Return what the layer makes of normalised tokens."""
        return self.attention(x, grid)


class GatedRotaryBlock(ScaledBlock, TakesAttentionApart):
    """A block whose mix is between rotated queries and keys, beside a convolution, under a gate.

    Parameters: those of `ScaledBlock`, `gate` and `local`.
    """

    def __init__(
        self, attention: MultiHead, stage: Stage, epsilon: float, shape: AttentionShape
    ) -> None:
        """Build around the projections and the mix of `attention`, for the grid of `shape`."""
        super().__init__(attention, stage, epsilon)
        self.gate = nn.Linear(stage.channels, stage.channels)
        self.local = channel_convolution(stage.channels, LOCAL_SIZE)
        self.rotation = rotation_in_each_head(shape.grid, shape.head_dim)

    def attend(self, x: Stream, grid: Grid) -> Stream:
        """Attend; queries and keys turn in float32 at least."""
        layer = cast("MultiHead", self.attention)
        q, k, v = layer.project(x)
        exact = torch.promote_types(v.dtype, torch.float32)
        q, k = (self.rotation(t.to(exact).contiguous(), grid).to(v.dtype) for t in (q, k))
        mixed = layer.mix(q, k, v, x, grid)
        mixed = mixed + convolve_channels(v, self.local.weight, self.local.bias, grid)
        return layer.out(merge_heads(mixed) * self.gate(x))


class Widening(nn.Module):
    """Linear map, batch norm over tokens and images, SiLU. Parameters: `widen`, `norm`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, LAST_CHANNELS)
        self.norm = nn.BatchNorm1d(LAST_CHANNELS)

    def forward(self, x: Stream) -> Float[Tensor, "batch tokens last_channels"]:
        """Return LAST_CHANNELS channels a token."""
        return F.silu(self.norm(self.widen(x).transpose(1, 2)).transpose(1, 2))
