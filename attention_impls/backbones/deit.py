"""DeiT: a plain vision transformer with a class token, and the networks built on it.

Patches of 16 x 16 px become tokens by one linear map, a class token is put before them, a learned
table of positions is added; blocks of x + attention(norm(x)) and x + mlp(norm(x)); the class token
after a last norm is classified.

Touvron et al., "Training data-efficient image transformers & distillation through attention", ICML
2021, https://arxiv.org/abs/2012.12877, table 1 (the network of Dosovitskiy et al., 2021). InLine
and Agent attention publish models on it, with narrower or wider blocks and more heads.

Deviations: dropout and stochastic depth, which act in training alone, are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attention_impls.adoption import AdoptedAttention, adopted, block_rules, named
from attention_impls.backbone import (
    SQUEEZED,
    BackboneSpec,
    Mechanism,
    Placed,
    printed,
)
from attention_impls.blocks import (
    Block,
    Images,
    linear_flops,
    mlp_flops,
    require_side,
    start_as_published,
    tokens_of,
)
from attention_impls.papers import AGENT, AGENT_README, DEIT, INLINE, INLINE_README
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import StateDict
from attention_impls.variants.agent import AgentOptions

PATCH_PX = 16
MLP_RATIO = 4
EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class DeitDesign:
    """Sizes of one network of this family."""

    heads: int
    head_dim: int
    blocks: tuple[Mechanism, ...]
    """The attention of every block."""

    @property
    def channels(self) -> int:
        """Width of the token stream."""
        return self.heads * self.head_dim

    def grid(self, resolution_px: int) -> Grid:
        """Patches of a square image; pixels that fill no patch are left out."""
        side = resolution_px // PATCH_PX
        return Grid(side, side)

    def build(self, num_classes: int, resolution_px: int) -> nn.Module:
        """Build the network."""
        return Deit(self, num_classes, resolution_px)

    def attentions(self, resolution_px: int, batch: int = 1) -> tuple[Placed, ...]:
        """Every attention, all of one shape."""
        shape = AttentionShape(
            batch=batch,
            grid=self.grid(resolution_px),
            heads=self.heads,
            head_dim=self.head_dim,
            extra_tokens=1,
        )
        return tuple(
            Placed(where=f"block {index}", mechanism=mechanism, shape=shape)
            for index, mechanism in enumerate(self.blocks, start=1)
        )

    def other_flops(self, resolution_px: int, num_classes: int) -> int:
        """Patches 2 n C 3 p^2, blocks 16 N C^2 each, classifier 2 C classes; N = n + 1."""
        patches, channels = self.grid(resolution_px).tokens, self.channels
        blocks = len(self.blocks) * mlp_flops(patches + 1, channels, MLP_RATIO * channels)
        embed = linear_flops(patches, 3 * PATCH_PX**2, channels)
        return embed + blocks + linear_flops(1, channels, num_classes)

    def limits(self, resolution_px: int) -> tuple[str, ...]:
        """An image holds at least one patch."""
        if resolution_px < PATCH_PX:
            return (f"resolution is {resolution_px} px, must be >= {PATCH_PX} px (one patch)",)
        return ()

    def thinned(self) -> "DeitDesign":
        """Return the design with one block of each kind."""
        return replace(self, blocks=tuple(dict.fromkeys(self.blocks)))

    def with_variant(self, old: str, new: str, changes: Mapping[str, Any]) -> "DeitDesign":
        """Return the design with `new` wherever `old` stands."""
        blocks = (m.changed(new, changes) if m.variant == old else m for m in self.blocks)
        return replace(self, blocks=tuple(blocks))

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map timm's names, which all models of this family use."""
        rules = (
            ("cls_token", "class_token"),
            ("pos_embed", "positions"),
            named(r"patch_embed\.proj", "embed"),
            *block_rules(r"blocks\.(\d+)", r"blocks.\1"),
            named("norm", "norm"),
            named("head", "classify"),
        )
        attentions = (
            AdoptedAttention(
                theirs=f"blocks.{i}.attn.", ours=f"blocks.{i}.attention.", spec=mechanism.spec
            )
            for i, mechanism in enumerate(self.blocks)
        )
        return adopted(official, rules, attentions)

    def unused_official(self, official: StateDict) -> dict[str, str]:  # noqa: ARG002
        """Nothing: every published entry is a parameter of the network."""
        return {}


class Deit(nn.Module):
    """The network.

    Parameters: `embed`, `class_token`, `positions`, `blocks`, `norm`, `classify`.
    """

    def __init__(self, design: DeitDesign, num_classes: int, resolution_px: int) -> None:
        """Build for images of `resolution_px`."""
        super().__init__()
        channels = design.channels
        self.resolution_px = resolution_px
        self.grid = design.grid(resolution_px)
        self.embed = nn.Conv2d(3, channels, PATCH_PX, PATCH_PX)
        self.class_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.positions = nn.Parameter(torch.zeros(1, 1 + self.grid.tokens, channels))
        self.blocks = nn.ModuleList(
            Block(placed.build(), channels, MLP_RATIO * channels, epsilon=EPSILON)
            for placed in design.attentions(resolution_px)
        )
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.classify = nn.Linear(channels, num_classes)
        start_as_published(self)
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, images: Images) -> Tensor:
        """Classify: logits [batch, classes]."""
        require_side(images, self.resolution_px)
        patches = tokens_of(self.embed(images))
        x = torch.cat((self.class_token.expand(len(images), -1, -1), patches), dim=1)
        x = x + self.positions
        for block in self.blocks:
            x = block(x, self.grid)
        return self.classify(self.norm(x[:, 0]))


def _deit(name: str, *, heads: int, parameters: float, top1: float) -> BackboneSpec:
    """One of DeiT's own models."""
    return BackboneSpec(
        id=f"deit_{name}_patch16_224",
        title=f"DeiT-{name.capitalize()}",
        family="deit",
        variant="softmax",
        paper=DEIT,
        resolution_px=224,
        published=printed("README, table of DeiT models", parameters=parameters, top1=top1),
        design=DeitDesign(heads=heads, head_dim=64, blocks=_twelve(Mechanism(variant="softmax"))),
    )


def _inline(
    letter: str, *, heads: int, resolution_px: int, parameters: float, macs: float, top1: float
) -> BackboneSpec:
    """One of InLine's models, whose heads have 32 channels."""
    return BackboneSpec(
        id=f"inline_deit_{letter}",
        title=f"InLine-DeiT-{letter.upper()}",
        family="deit",
        variant="inline",
        paper=INLINE,
        resolution_px=resolution_px,
        preparation=SQUEEZED,
        published=printed(INLINE_README, parameters=parameters, macs=macs, top1=top1),
        design=DeitDesign(heads=heads, head_dim=32, blocks=_twelve(Mechanism(variant="inline"))),
    )


def _agent(
    letter: str,
    *,
    heads: int,
    parameters: float,
    macs: float,
    top1: float,
    resolution_px: int = 224,
    agents: int = 49,
    replaced: int = 12,
) -> BackboneSpec:
    """One of Agent attention's models; the last 12 - `replaced` blocks keep softmax attention."""
    agent = Mechanism(variant="agent", options=AgentOptions(landmarks=agents))
    blocks = (agent,) * replaced + (Mechanism(variant="softmax"),) * (12 - replaced)
    return BackboneSpec(
        id=f"agent_deit_{letter}" + ("" if resolution_px == 224 else f"_{resolution_px}"),
        title=f"Agent-DeiT-{letter.upper()}",
        family="deit",
        variant="agent",
        paper=AGENT,
        resolution_px=resolution_px,
        preparation=SQUEEZED,
        published=printed(AGENT_README, parameters=parameters, macs=macs, top1=top1),
        design=DeitDesign(heads=heads, head_dim=64, blocks=blocks),
    )


def _twelve(mechanism: Mechanism) -> tuple[Mechanism, ...]:
    return (mechanism,) * 12


_MODELS = (
    _deit("tiny", heads=3, parameters=5e6, top1=0.722),
    _deit("small", heads=6, parameters=22e6, top1=0.799),
    _deit("base", heads=12, parameters=86e6, top1=0.818),
    _inline("t", heads=6, resolution_px=224, parameters=6.5e6, macs=1.1e9, top1=0.745),
    _inline("s", heads=10, resolution_px=288, parameters=16.7e6, macs=5.0e9, top1=0.802),
    _inline("b", heads=12, resolution_px=448, parameters=23.8e6, macs=17.2e9, top1=0.823),
    _agent("t", heads=3, parameters=6.0e6, macs=1.2e9, top1=0.749),
    _agent("s", heads=6, parameters=22.7e6, macs=4.4e9, top1=0.805),
    _agent("s", heads=6, parameters=23.1e6, macs=17.7e9, top1=0.831, resolution_px=448),
    _agent("b", heads=12, parameters=87.2e6, macs=17.6e9, top1=0.820, agents=81, replaced=4),
)
BACKBONES = {spec.id: spec for spec in _MODELS}
