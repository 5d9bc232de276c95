"""A plain pre-norm vision transformer around any variant, for accuracy tasks on small images.

Patch embedding, learned absolute positions that start as 2-D sines and cosines, blocks of
x + attention(norm(x)) and x + mlp(norm(x)), mean over tokens, linear classifier (Dosovitskiy et al.
2021, https://arxiv.org/abs/2010.11929, without the class token, which some variants cannot take).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.blocks import Block
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTransformerSize:
    """Sizes of the network, the same for every variant."""

    resolution_px: int
    patch_px: int
    image_channels: int
    classes: int
    depth: int
    heads: int
    head_dim: int
    mlp_ratio: float

    @property
    def grid(self) -> Grid:
        """Tokens of one image."""
        side = self.resolution_px // self.patch_px
        return Grid(side, side)

    def shape(self, batch: int = 1) -> AttentionShape:
        """Shape of every attention call."""
        return AttentionShape(batch=batch, grid=self.grid, heads=self.heads, head_dim=self.head_dim)


def sine_positions(grid: Grid, channels: int) -> Float[Tensor, "tokens channels"]:
    """Sines and cosines of row and column at channels / 4 frequencies each, from 1 down to 1/100.

    A start from which small networks learn where things are within a few hundred steps.
    """
    frequencies = 100.0 ** -(torch.arange(channels // 4) / (channels // 4))
    rows = torch.arange(grid.height).repeat_interleave(grid.width)
    columns = torch.arange(grid.width).repeat(grid.height)
    angles = [axis[:, None] * frequencies for axis in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


class VisionTransformer(nn.Module):
    """Images to class logits, with the attention of one variant in every block."""

    def __init__(
        self, spec: AttentionSpec, size: VisionTransformerSize, options: Any = None
    ) -> None:
        """Build with the variant's `options` (None: its defaults).

        Raises:
            UnsupportedShape: the variant cannot compute this grid.
            ValueError: channels are not a multiple of 4, which the positions need.
        """
        super().__init__()
        self.grid = size.grid
        channels = size.heads * size.head_dim
        if channels % 4:
            raise ValueError(f"{channels} channels; positions need a multiple of 4")
        self.embed = nn.Conv2d(size.image_channels, channels, size.patch_px, size.patch_px)
        self.positions = nn.Parameter(sine_positions(size.grid, channels).unsqueeze(0))
        self.blocks = nn.ModuleList(
            Block(spec.build(size.shape(), options), channels, int(channels * size.mlp_ratio))
            for _ in range(size.depth)
        )
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, size.classes)

    def forward(
        self, images: Float[Tensor, "batch image_channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Classify."""
        x = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x, self.grid)
        return self.classify(self.norm(x).mean(1))
