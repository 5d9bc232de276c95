"""Networks of four stages, each with fewer and wider tokens: what the pyramid families share.

A stage embeds the map of the stage before, adds positions where the family has them, and runs its
blocks. What a family has of its own (embeddings, blocks, names of published parameters) is in its
file under `backbones/`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.backbone import Mechanism, Placed
from attention_impls.blocks import (
    Block,
    Images,
    Maps,
    Stream,
    convolution_flops,
    linear_flops,
    maps_of,
    mlp_flops,
    require_side,
    start_as_published,
    tokens_of,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import StateDict

BY_STAGE: dict[str, tuple[str, tuple[int, ...]]] = {
    "agent": ("landmarks", (9, 16, 49, 49)),
    "cross_shaped_window": ("stripe", (1, 2, 7, 7)),
    "soft": ("local_size", (9, 5, 3, 3)),
    "soft_norm": ("local_size", (9, 5, 3, 3)),
    "spatial_reduction": ("reduction", (8, 4, 2, 1)),
}
"""Variant -> the option that its authors set by stage, and its values in the four stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Sizes of one stage."""

    channels: int
    heads: int
    mlp_ratio: int | float
    blocks: tuple[Mechanism, ...]
    """The attention of every block."""

    @property
    def mlp_channels(self) -> int:
        """Width inside the perceptrons."""
        return int(self.channels * self.mlp_ratio)


@runtime_checkable
class Embedding(Protocol):
    """How a stage makes its tokens from the map before it."""

    def grid(self, of: Grid) -> Grid:
        """Layout of the tokens made from a map of size `of`."""
        ...

    def flops(self, inputs: int, outputs: int, of: Grid) -> int:
        """FLOPs for one image."""
        ...

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Build the module: maps [batch, inputs, height, width] to tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution followed by a norm over channels."""

    side: int
    stride: int
    padding: int = 0

    def grid(self, of: Grid) -> Grid:
        """Whole steps of the convolution; what is left over at the end belongs to no token."""
        rows, columns = (
            (n + 2 * self.padding - self.side) // self.stride + 1 for n in (of.height, of.width)
        )
        return Grid(rows, columns)

    def flops(self, inputs: int, outputs: int, of: Grid) -> int:
        """2 n I O side^2."""
        return convolution_flops(self.grid(of).tokens, inputs, outputs, self.side)

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Build the module."""
        return ConvolutionEmbedding(inputs, outputs, self)


class ConvolutionEmbedding(nn.Module):
    """Parameters: `convolution`, `norm`."""

    def __init__(self, inputs: int, outputs: int, sizes: Convolution) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, sizes.side, sizes.stride, sizes.padding)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, maps: Maps) -> Stream:
        """Return normalised tokens."""
        return self.norm(tokens_of(self.convolution(maps)))


@dataclass(frozen=True, kw_only=True)
class PyramidDesign(ABC):
    """Four stages; a family says how they are embedded, blocked and read out."""

    stages: tuple[Stage, ...]
    class_token: bool = False
    """The last stage has a class token, which is classified; otherwise the mean of its tokens."""
    epsilon: float = 1e-5
    """Of the norms around attention and perceptron and after the last block."""
    norm_is_read: bool = True
    """False where the published network has a last norm and never calls it."""
    embeddings: ClassVar[tuple[Embedding, ...]]

    @abstractmethod
    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map the authors' names onto ours."""

    def block(self, stage: Stage, placed: Placed) -> nn.Module:
        """Build one block."""
        return Block(placed.build(), stage.channels, stage.mlp_channels, epsilon=self.epsilon)

    def block_flops(self, stage: Stage, placed: Placed) -> int:
        """FLOPs of one block for one image, without its attention layer."""
        return mlp_flops(placed.shape.tokens, stage.channels, stage.mlp_channels)

    def position_grid(self, index: int, grid: Grid) -> Grid | None:  # noqa: ARG002
        """Layout of the learned positions that stage `index` of `grid` adds; None: it adds none."""
        return None

    def stage_norm(self, stage: Stage) -> nn.Module | None:  # noqa: ARG002
        """Norm after the last block of a stage."""
        return None

    def last_norm(self) -> nn.Module | None:
        """Norm before the readout."""
        return nn.LayerNorm(self.stages[-1].channels, eps=self.epsilon)

    def read_channels(self) -> int:
        """Width of what the classifier reads."""
        return self.stages[-1].channels

    def start(self, network: "Pyramid") -> None:
        """Give a new network the parameters that training starts from."""
        start_as_published(network)

    def grids(self, resolution_px: int) -> tuple[Grid, ...]:
        """Layout of the tokens in every stage."""
        grids = [Grid(resolution_px, resolution_px)]
        for embedding in self.embeddings:
            grids.append(embedding.grid(grids[-1]))
        return tuple(grids[1:])

    def limits(self, resolution_px: int) -> tuple[str, ...]:
        """Every stage holds at least one token."""
        try:
            self.grids(resolution_px)
        except ValueError:
            return (f"resolution is {resolution_px} px: too small for {len(self.stages)} stages",)
        return ()

    def attentions(self, resolution_px: int, batch: int = 1) -> tuple[Placed, ...]:
        """Every attention in the order of the forward pass."""
        return tuple(
            placed
            for index in range(len(self.stages))
            for placed in self.in_stage(index, self.grids(resolution_px)[index], batch)
        )

    def in_stage(self, index: int, grid: Grid, batch: int = 1) -> tuple[Placed, ...]:
        """The attentions of one stage."""
        stage = self.stages[index]
        last = index == len(self.stages) - 1
        shape = AttentionShape(
            batch=batch,
            grid=grid,
            heads=stage.heads,
            head_dim=stage.channels // stage.heads,
            extra_tokens=int(self.class_token and last),
        )
        return tuple(
            Placed(where=f"stage {index + 1}, block {number}", mechanism=mechanism, shape=shape)
            for number, mechanism in enumerate(stage.blocks, start=1)
        )

    def other_flops(self, resolution_px: int, num_classes: int) -> int:
        """FLOPs of one image outside the attention layers: embeddings, perceptrons, classifier."""
        flops = linear_flops(1, self.read_channels(), num_classes)
        of, inputs = Grid(resolution_px, resolution_px), 3
        for index, (stage, embedding) in enumerate(zip(self.stages, self.embeddings, strict=True)):
            flops += embedding.flops(inputs, stage.channels, of)
            of, inputs = embedding.grid(of), stage.channels
            flops += sum(self.block_flops(stage, placed) for placed in self.in_stage(index, of))
        return flops

    def thinned(self) -> "PyramidDesign":
        """Return the design with one block of each kind in every stage."""
        stages = (replace(s, blocks=tuple(dict.fromkeys(s.blocks))) for s in self.stages)
        return replace(self, stages=tuple(stages))

    def with_variant(self, old: str, new: str, changes: Mapping[str, Any]) -> "PyramidDesign":
        """Return the design with `new` wherever `old` stands."""
        stages = tuple(
            replace(
                stage,
                blocks=tuple(
                    _changed(mechanism, new, changes, index, number)
                    if mechanism.variant == old
                    else mechanism
                    for number, mechanism in enumerate(stage.blocks)
                ),
            )
            for index, stage in enumerate(self.stages)
        )
        return replace(self, stages=stages)

    def unused_official(self, official: StateDict) -> dict[str, str]:  # noqa: ARG002
        """Nothing: every published entry is a parameter of the network."""
        return {}

    def build(self, num_classes: int, resolution_px: int) -> nn.Module:
        """Build the network."""
        network = Pyramid(self, num_classes, resolution_px)
        if not network.classify.weight.is_meta:  # numbers that do not exist need no values
            self.start(network)
        return network


def _changed(
    mechanism: Mechanism, new: str, changes: Mapping[str, Any], stage: int, block: int
) -> Mechanism:
    """Return `new` with the options that its authors give this block of a pyramid, and changes."""
    if new == mechanism.variant:
        return mechanism.changed(new, changes)
    usual: dict[str, Any] = {}
    if new in BY_STAGE:
        option, values = BY_STAGE[new]
        usual[option] = values[stage]
    if new == "window_shifted":
        usual["shifted"] = block % 2 == 1
    return mechanism.changed(new, {**usual, **changes})


class PyramidStage(nn.Module):
    """One stage. Parameters: `embed`, `positions` and `norm` where there are any, `blocks`."""

    def __init__(self, design: PyramidDesign, index: int, inputs: int, grid: Grid) -> None:
        """Build stage `index` for tokens of `grid`."""
        super().__init__()
        stage = design.stages[index]
        self.grid = grid
        self.embed = design.embeddings[index].build(inputs, stage.channels)
        self.extra_tokens = int(design.class_token and index == len(design.stages) - 1)
        self.position_grid = design.position_grid(index, grid)
        self.positions = None
        if self.position_grid is not None:
            rows = self.extra_tokens + self.position_grid.tokens
            self.positions = nn.Parameter(torch.zeros(1, rows, stage.channels))
            nn.init.normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(
            design.block(stage, placed) for placed in design.in_stage(index, grid)
        )
        self.norm = design.stage_norm(stage)

    def forward(self, maps: Maps, class_token: Tensor | None) -> Stream:
        """Embed, attend; `class_token` [1, 1, channels] is put before the tokens."""
        x = self.embed(maps)
        if class_token is not None:
            x = torch.cat((class_token.expand(len(x), -1, -1), x), dim=1)
        if self.positions is not None:
            x = x + self.fitted_positions(self.positions)
        for block in self.blocks:
            x = block(x, self.grid)
        return x if self.norm is None else self.norm(x)

    def fitted_positions(
        self, positions: Float[Tensor, "1 places channels"]
    ) -> Float[Tensor, "1 tokens channels"]:
        """Return the table for this grid, interpolated where it was learned on another one."""
        if self.position_grid is None or self.position_grid == self.grid:
            return positions
        extra = positions[:, : self.extra_tokens]
        maps = maps_of(positions[:, self.extra_tokens :], self.position_grid)
        sides = (self.grid.height, self.grid.width)
        return torch.cat((extra, tokens_of(F.interpolate(maps, sides, mode="bilinear"))), dim=1)


class Pyramid(nn.Module):
    """The network. Parameters: `stages`, `class_token` and `norm` if any, `classify`."""

    def __init__(self, design: PyramidDesign, num_classes: int, resolution_px: int) -> None:
        """Build for images of `resolution_px`."""
        super().__init__()
        self.resolution_px = resolution_px
        widths = [3, *(stage.channels for stage in design.stages)]
        self.grids = design.grids(resolution_px)
        self.stages = nn.ModuleList(
            PyramidStage(design, index, widths[index], grid)
            for index, grid in enumerate(self.grids)
        )
        self.class_token = None
        if design.class_token:
            self.class_token = nn.Parameter(torch.zeros(1, 1, widths[-1]))
            nn.init.normal_(self.class_token, std=0.02)
        self.norm = design.last_norm()
        self.norm_is_read = design.norm_is_read
        self.classify = nn.Linear(design.read_channels(), num_classes)

    def forward(self, images: Images) -> Tensor:
        """Classify: logits [batch, classes]."""
        require_side(images, self.resolution_px)
        *first, last = self.stages
        maps = images
        for stage, grid in zip(first, self.grids, strict=False):
            maps = maps_of(stage(maps, None), grid)
        return self.classify(self.read_out(last(maps, self.class_token)))

    def read_out(self, x: Stream) -> Tensor:
        """Return the class token, or the mean over tokens, after the last norm where it is read."""
        if self.class_token is not None:
            x = x[:, :1]
        if self.norm is not None and self.norm_is_read:
            x = self.norm(x)
        return x.mean(1)
