"""PVTv2: a pyramid with overlapping patches and a convolution inside every perceptron.

Stages are embedded by convolutions that overlap (7 x 7 of stride 4, then 3 x 3 of stride 2) and a
norm, without learned positions; blocks of x + attention(norm(x)) and x + mlp(norm(x)), whose
perceptron has a 3 x 3 depthwise convolution between its first map and GELU; a norm ends every
stage, and the mean of the tokens is classified. In the linear form keys and values are pooled to 7
x 7 tokens, and a ReLU stands before the depthwise convolution.

Wang et al., "PVT v2: Improved Baselines with Pyramid Vision Transformer", Computational Visual
Media 2022, https://arxiv.org/abs/2106.13797, section 3 and table 1.

Deviations: dropout and stochastic depth, which act in training alone, are left out.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attention_impls.adoption import AdoptedAttention, adopted, named
from attention_impls.backbone import (
    SQUEEZED,
    BackboneSpec,
    Mechanism,
    Placed,
    PublishedNumbers,
    printed,
)
from attention_impls.blocks import (
    Stream,
    convolution_flops,
    maps_of,
    mlp_flops,
    tokens_of,
)
from attention_impls.papers import DENOMINATOR, FLATTEN, FLATTEN_PLOT, PVT_README_AND_PLOT, PVT_V2
from attention_impls.pyramid import Convolution, Embedding, Pyramid, PyramidDesign, Stage
from attention_impls.shapes import Grid
from attention_impls.spec import StateDict
from attention_impls.variants.spatial_reduction import SpatialReductionOptions

REDUCTIONS = (8, 4, 2, 1)
HEADS = (1, 2, 5, 8)


class ConvolvedMlp(nn.Module):
    """Linear, (ReLU,) 3x3 depthwise convolution over the grid, GELU, linear."""

    def __init__(self, channels: int, inner: int, *, rectified: bool) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, inner)
        self.rectify = nn.ReLU() if rectified else nn.Identity()
        self.convolution = nn.Conv2d(inner, inner, 3, 1, 1, groups=inner)
        self.activate = nn.GELU()
        self.narrow = nn.Linear(inner, channels)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Map the tokens of `grid`."""
        inner = maps_of(self.rectify(self.widen(x)), grid)
        return self.narrow(self.activate(tokens_of(self.convolution(inner))))


class ConvolvedBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) with a perceptron that knows the grid."""

    def __init__(
        self, attention: nn.Module, stage: Stage, epsilon: float, *, rectified: bool
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(stage.channels, eps=epsilon)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(stage.channels, eps=epsilon)
        self.mlp = ConvolvedMlp(stage.channels, stage.mlp_channels, rectified=rectified)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Apply both branches."""
        x = x + self.attention(self.attention_norm(x), grid)
        return x + self.mlp(self.mlp_norm(x), grid)


@dataclass(frozen=True, kw_only=True)
class PvtV2Design(PyramidDesign):
    """Sizes of one network of this family."""

    epsilon: float = 1e-6
    rectified: bool = False
    """A ReLU stands before the depthwise convolutions, as in the linear form."""
    embeddings: ClassVar[tuple[Embedding, ...]] = (
        Convolution(7, 4, 3),
        Convolution(3, 2, 1),
        Convolution(3, 2, 1),
        Convolution(3, 2, 1),
    )

    def block(self, stage: Stage, placed: Placed) -> nn.Module:
        """Blocks with a convolution inside the perceptron."""
        return ConvolvedBlock(placed.build(), stage, self.epsilon, rectified=self.rectified)

    def block_flops(self, stage: Stage, placed: Placed) -> int:
        """4 N C H + 2 N H 3^2."""
        tokens = placed.shape.tokens
        convolution = convolution_flops(
            tokens, stage.mlp_channels, stage.mlp_channels, 3, stage.mlp_channels
        )
        return mlp_flops(tokens, stage.channels, stage.mlp_channels) + convolution

    def stage_norm(self, stage: Stage) -> nn.Module:
        """Every stage ends with a norm."""
        return nn.LayerNorm(stage.channels, eps=self.epsilon)

    def last_norm(self) -> None:
        """The norm of the last stage is the last one."""
        return

    def start(self, network: Pyramid) -> None:
        """As everywhere; convolutions from a normal distribution of variance 2 / fan-out."""
        super().start(network)
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                area = module.kernel_size[0] * module.kernel_size[1]
                fan_out = area * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
                nn.init.zeros_(module.bias)

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map the names of the authors; stages are numbered from 1 in them."""
        rules = [named("head", "classify")]
        for index in range(len(self.stages)):
            theirs, ours = index + 1, f"stages.{index}"
            rules += [
                named(rf"patch_embed{theirs}\.proj", f"{ours}.embed.convolution"),
                named(rf"patch_embed{theirs}\.norm", f"{ours}.embed.norm"),
                named(f"norm{theirs}", f"{ours}.norm"),
            ]
            rules += [
                named(rf"block{theirs}\.(\d+)\.{name}", rf"{ours}.blocks.\1.{known}")
                for name, known in _INSIDE
            ]
        attentions = (
            AdoptedAttention(
                theirs=f"block{index + 1}.{number}.attn.",
                ours=f"stages.{index}.blocks.{number}.attention.",
                spec=mechanism.spec,
            )
            for index, stage in enumerate(self.stages)
            for number, mechanism in enumerate(stage.blocks)
        )
        return adopted(official, rules, attentions)


_INSIDE = (
    ("norm1", "attention_norm"),
    ("norm2", "mlp_norm"),
    (r"mlp\.fc1", "mlp.widen"),
    (r"mlp\.dwconv\.dwconv", "mlp.convolution"),
    (r"mlp\.fc2", "mlp.narrow"),
)
_SIZES = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), (8, 8, 4, 4)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), (8, 8, 4, 4)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), (8, 8, 4, 4)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), (4, 4, 4, 4)),
}
"""Channels, depths and ratios of the perceptrons."""


def _design(
    size: str, mechanisms: tuple[Mechanism, ...], *, rectified: bool = False
) -> PvtV2Design:
    widths, depths, ratios = _SIZES[size]
    return PvtV2Design(
        rectified=rectified,
        stages=tuple(
            Stage(channels=width, heads=heads, mlp_ratio=ratio, blocks=(mechanism,) * depth)
            for width, heads, ratio, depth, mechanism in zip(
                widths, HEADS, ratios, depths, mechanisms, strict=True
            )
        ),
    )


def _pvt(size: str, published: PublishedNumbers, *, pooled: bool = False) -> BackboneSpec:
    """One of PVTv2's own models; `pooled` is its linear form."""
    mechanisms = tuple(
        Mechanism(variant="spatial_reduction", options=SpatialReductionOptions(reduction=side))
        for side in REDUCTIONS
    )
    if pooled:
        mechanisms = (Mechanism(variant="spatial_reduction_linear"),) * 4
    return BackboneSpec(
        id=f"pvt_v2_{size}" + ("_li" if pooled else ""),
        title=f"PVTv2-{size.upper()}" + ("-Li" if pooled else ""),
        family="pvt_v2",
        variant=mechanisms[0].variant,
        paper=PVT_V2,
        resolution_px=224,
        published=published,
        design=_design(size, mechanisms, rectified=pooled),
    )


def _flatten(size: str, published: PublishedNumbers) -> BackboneSpec:
    """One of FLatten's models, which keep every key."""
    return BackboneSpec(
        id=f"flatten_pvt_v2_{size}",
        title=f"FLatten-PVTv2-{size.upper()}",
        family="pvt_v2",
        variant="focused_linear",
        paper=FLATTEN,
        resolution_px=224,
        preparation=SQUEEZED,
        published=published,
        differences=(DENOMINATOR,),
        design=_design(size, (Mechanism(variant="focused_linear"),) * 4),
    )


_README = "README of PVT"
_MODELS = (
    _pvt("b0", printed(_README, parameters=3.7e6, top1=0.705)),
    _pvt("b1", printed(_README, parameters=14.0e6, top1=0.787)),
    _pvt("b2", printed(PVT_README_AND_PLOT, parameters=25.4e6, macs=4.0e9, top1=0.820)),
    _pvt("b2", printed(_README, parameters=22.6e6, top1=0.821), pooled=True),
    _pvt("b3", printed(PVT_README_AND_PLOT, parameters=45.2e6, macs=6.9e9, top1=0.831)),
    _pvt("b4", printed(PVT_README_AND_PLOT, parameters=62.6e6, macs=10.1e9, top1=0.836)),
    _pvt("b5", printed(PVT_README_AND_PLOT, parameters=82.0e6, macs=11.8e9, top1=0.838)),
    _flatten("b0", printed("README, list of models", top1=0.711)),
    _flatten("b1", printed(FLATTEN_PLOT)),
    _flatten("b2", printed(FLATTEN_PLOT, macs=4.3e9)),
    _flatten("b3", printed(FLATTEN_PLOT, macs=7.3e9)),
    _flatten("b4", printed(FLATTEN_PLOT, macs=10.7e9)),
    _flatten("b5", printed("a constructor without numbers in paper or README")),
)
BACKBONES = {spec.id: spec for spec in _MODELS}
