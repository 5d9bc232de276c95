"""A pre-norm encoder around any variant for sequences of token ids, for synthetic tasks.

Embedding, learned positions that start as sines (or none), optionally a short causal convolution
before every attention, blocks of x + attention(norm(x)) and x + mlp(norm(x)), and logits from every
token, from the last one, or from the mean. The grid is one row: nothing is two-dimensional.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from attention_impls.vit import Block


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSize:
    """Sizes of the network, the same for every variant."""

    tokens: int
    vocabulary: int
    classes: int
    depth: int
    heads: int
    head_dim: int
    mlp_ratio: float
    """0: blocks have no mlp."""
    positions: bool
    """Learned positions are added to the embeddings."""
    convolution: int = 0
    """Taps of the causal convolution before every attention; 0: none."""
    readout: Literal["each", "last", "mean"]
    """Which token gives the logits."""

    @property
    def grid(self) -> Grid:
        """One row."""
        return Grid(1, self.tokens)

    def shape(self, batch: int = 1) -> AttentionShape:
        """Shape of every attention call."""
        return AttentionShape(batch=batch, grid=self.grid, heads=self.heads, head_dim=self.head_dim)


class CausalConvolution(nn.Module):
    """x + a convolution of each channel with itself over the tokens before."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.mix = nn.Conv1d(channels, channels, taps, groups=channels)

    def forward(
        self, x: Float[Tensor, "batch tokens channels"]
    ) -> Float[Tensor, "batch tokens channels"]:
        """Convolve."""
        before = nn.functional.pad(x.mT, (self.taps - 1, 0))
        return x + self.mix(before).mT


class AttentionOnly(nn.Module):
    """x + attention(norm(x))."""

    def __init__(self, attention: nn.Module, channels: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = attention

    def forward(
        self, x: Float[Tensor, "batch tokens channels"], grid: Grid
    ) -> Float[Tensor, "batch tokens channels"]:
        """Attend."""
        return x + self.attention(self.attention_norm(x), grid)


def _block(attention: nn.Module, channels: int, hidden: int) -> nn.Module:
    """A block; without hidden channels it has no mlp."""
    return Block(attention, channels, hidden) if hidden else AttentionOnly(attention, channels)


def sine_sequence(tokens: int, channels: int) -> Float[Tensor, "tokens channels"]:
    """Sines and cosines of the place at channels / 2 frequencies from 1 down to 1 / tokens."""
    share = torch.arange(channels // 2) / max(1, channels // 2 - 1)
    angles = torch.arange(tokens)[:, None] * float(tokens) ** -share
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class SequenceEncoder(nn.Module):
    """Token ids to logits, with the attention of one variant in every block."""

    def __init__(self, spec: AttentionSpec, size: SequenceSize, options: Any = None) -> None:
        """Build with the variant's `options` (None: its defaults).

        Raises:
            UnsupportedShape: the variant cannot compute one row of tokens.
            ValueError: an odd number of channels, which the positions cannot have.
        """
        super().__init__()
        channels = size.heads * size.head_dim
        if channels % 2:
            raise ValueError(f"{channels} channels; positions need an even number")
        self.grid = size.grid
        self.readout = size.readout
        self.embed = nn.Embedding(size.vocabulary, channels)
        self.positions = (
            nn.Parameter(sine_sequence(size.tokens, channels)) if size.positions else None
        )
        self.blocks = nn.ModuleList(
            _block(spec.build(size.shape(), options), channels, int(channels * size.mlp_ratio))
            for _ in range(size.depth)
        )
        self.convolutions = nn.ModuleList(
            CausalConvolution(channels, size.convolution) if size.convolution else nn.Identity()
            for _ in range(size.depth)
        )
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, size.classes)

    def forward(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch *each classes"]:
        """Classify: [batch, classes], or [batch, tokens, classes] for readout `each`."""
        x = self.embed(ids.long())
        if self.positions is not None:
            x = x + self.positions
        for convolution, block in zip(self.convolutions, self.blocks, strict=True):
            x = block(convolution(x), self.grid)
        if self.readout == "last":
            x = x[:, -1]
        elif self.readout == "mean":
            x = x.mean(1)
        return self.classify(self.norm(x))
