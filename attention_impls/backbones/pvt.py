"""PVT: a pyramid of four stages with strides 4, 8, 16, 32, and the networks built on it.

Each stage embeds patches (4 x 4 px, then 2 x 2 tokens) by a convolution and a norm, adds a learned
table of positions and runs blocks of x + attention(norm(x)) and x + mlp(norm(x)). PVT itself
attends to keys and values of a map shrunk 8, 4, 2 and 1 times a side, and classifies a class token
that joins in the last stage; the networks with linear attention keep every key, have no class token
and classify the mean.

Wang et al., "Pyramid Vision Transformer", ICCV 2021, https://arxiv.org/abs/2102.12122, table 1.

Deviations: dropout and stochastic depth, which act in training alone, are left out. The position
tables are built for the resolution of the network; the authors interpolate at every call.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attention_impls.adoption import AdoptedAttention, adopted, block_rules, named
from attention_impls.backbone import (
    SQUEEZED,
    BackboneSpec,
    Mechanism,
    printed,
)
from attention_impls.papers import (
    AGENT,
    AGENT_README,
    DENOMINATOR,
    FLATTEN,
    FLATTEN_PLOT,
    INLINE,
    INLINE_README,
    POLAFORMER,
    POLAFORMER_README,
    PVT,
    PVT_README_AND_PLOT,
)
from attention_impls.pyramid import Convolution, Embedding, PyramidDesign, Stage
from attention_impls.shapes import Grid
from attention_impls.spec import StateDict
from attention_impls.variants.agent import AgentOptions
from attention_impls.variants.spatial_reduction import SpatialReductionOptions

CHANNELS = (64, 128, 320, 512)
MLP_RATIOS = (8, 8, 4, 4)
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2)
DEPTHS = {
    "tiny": (2, 2, 2, 2),
    "small": (3, 4, 6, 3),
    "medium": (3, 4, 18, 3),
    "large": (3, 8, 27, 3),
}


@dataclass(frozen=True, kw_only=True)
class PvtDesign(PyramidDesign):
    """Sizes of one network of this family."""

    epsilon: float = 1e-6
    has_last_norm: bool = True
    """A norm stands before the readout."""
    embeddings: ClassVar[tuple[Embedding, ...]] = (
        Convolution(4, 4),
        Convolution(2, 2),
        Convolution(2, 2),
        Convolution(2, 2),
    )

    def position_grid(self, index: int, grid: Grid) -> Grid:  # noqa: ARG002
        """Every stage adds positions of its own."""
        return grid

    def last_norm(self) -> nn.Module | None:
        """The norm before the readout, if the network has one."""
        return super().last_norm() if self.has_last_norm else None

    def rules(self) -> tuple[tuple[str, str], ...]:
        """Names of the authors; stages are numbered from 1 in them."""
        found = [("cls_token", "class_token"), named("norm", "norm"), named("head", "classify")]
        for index in range(len(self.stages)):
            theirs, ours = index + 1, rf"stages.{index}"
            found += [
                (f"pos_embed{theirs}", f"{ours}.positions"),
                named(rf"patch_embed{theirs}\.proj", f"{ours}.embed.convolution"),
                named(rf"patch_embed{theirs}\.norm", f"{ours}.embed.norm"),
                *block_rules(rf"block{theirs}\.(\d+)", rf"{ours}.blocks.\1"),
            ]
        return tuple(found)

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map the names that PVT's code and all that follow it use."""
        attentions = (
            AdoptedAttention(
                theirs=f"block{index + 1}.{number}.attn.",
                ours=f"stages.{index}.blocks.{number}.attention.",
                spec=mechanism.spec,
            )
            for index, stage in enumerate(self.stages)
            for number, mechanism in enumerate(stage.blocks)
        )
        return adopted(official, self.rules(), attentions)


def stages(
    depths: tuple[int, ...], heads: tuple[int, ...], mechanisms: tuple[Mechanism, ...]
) -> tuple[Stage, ...]:
    """Four stages of PVT's widths, each with one mechanism."""
    return tuple(
        Stage(channels=channels, heads=count, mlp_ratio=ratio, blocks=(mechanism,) * depth)
        for channels, count, ratio, depth, mechanism in zip(
            CHANNELS, heads, MLP_RATIOS, depths, mechanisms, strict=True
        )
    )


def reduced() -> tuple[Mechanism, ...]:
    """Attention to keys and values shrunk 8, 4 and 2 times a side; plain in the last stage."""
    shrunk = (
        Mechanism(variant="spatial_reduction", options=SpatialReductionOptions(reduction=side))
        for side in REDUCTIONS
    )
    return (*shrunk, Mechanism(variant="softmax"))


def _pvt(size: str, *, parameters: float, macs: float, top1: float) -> BackboneSpec:
    """One of PVT's own models."""
    return BackboneSpec(
        id=f"pvt_{size}",
        title=f"PVT-{size.capitalize()}",
        family="pvt",
        variant="spatial_reduction",
        paper=PVT,
        resolution_px=224,
        published=printed(
            PVT_README_AND_PLOT,
            parameters=parameters,
            macs=macs,
            top1=top1,
        ),
        design=PvtDesign(stages=stages(DEPTHS[size], HEADS, reduced()), class_token=True),
    )


def _inline(
    size: str, *, parameters: float, macs: float, top1: float, differences: tuple[str, ...] = ()
) -> BackboneSpec:
    """One of InLine's models: twice the heads of PVT, no class token, no last norm."""
    mechanisms = (Mechanism(variant="inline"),) * 4
    return BackboneSpec(
        id=f"inline_pvt_{_LETTERS[size]}",
        title=f"InLine-PVT-{size[0].upper()}",
        family="pvt",
        variant="inline",
        paper=INLINE,
        resolution_px=224,
        preparation=SQUEEZED,
        published=printed(INLINE_README, parameters=parameters, macs=macs, top1=top1),
        differences=differences,
        design=PvtDesign(
            stages=stages(DEPTHS[size], (2, 4, 10, 16), mechanisms), has_last_norm=False
        ),
    )


def _flatten(size: str, *, macs: float | None = None, top1: float | None = None) -> BackboneSpec:
    """One of FLatten's models: PVT's heads, no class token, a last norm that is never called."""
    mechanisms = (Mechanism(variant="focused_linear"),) * 4
    return BackboneSpec(
        id=f"flatten_pvt_{_LETTERS[size]}",
        title=f"FLatten-PVT-{size[0].upper()}",
        family="pvt",
        variant="focused_linear",
        paper=FLATTEN,
        resolution_px=224,
        preparation=SQUEEZED,
        published=printed(FLATTEN_PLOT, macs=macs, top1=top1),
        differences=(_UNUSED_NORM, DENOMINATOR),
        design=PvtDesign(stages=stages(DEPTHS[size], HEADS, mechanisms), norm_is_read=False),
    )


def _agent(
    size: str, *, parameters: float, macs: float, top1: float, resolution_px: int = 224
) -> BackboneSpec:
    """One of Agent attention's models: PVT's heads, no class token, no last norm."""
    mechanisms = tuple(
        Mechanism(variant="agent", options=AgentOptions(landmarks=agents)) for agents in AGENTS
    )
    suffix = "" if resolution_px == 224 else f"_{resolution_px}"
    return BackboneSpec(
        id=f"agent_pvt_{_LETTERS[size]}{suffix}",
        title=f"Agent-PVT-{size[0].upper()}",
        family="pvt",
        variant="agent",
        paper=AGENT,
        resolution_px=resolution_px,
        preparation=SQUEEZED,
        published=printed(AGENT_README, parameters=parameters, macs=macs, top1=top1),
        design=PvtDesign(stages=stages(DEPTHS[size], HEADS, mechanisms), has_last_norm=False),
    )


def _pola(size: str, *, top1: float | None = None) -> BackboneSpec:
    """One of PolaFormer's models: PVT's heads, no class token, a last norm that is never called."""
    mechanisms = (Mechanism(variant="polaformer"),) * 4
    source = POLAFORMER_README if top1 is not None else _NO_ROW
    return BackboneSpec(
        id=f"pola_pvt_{_LETTERS[size]}",
        title=f"Pola-PVT-{size[0].upper()}",
        family="pvt",
        variant="polaformer",
        paper=POLAFORMER,
        resolution_px=224,
        preparation=SQUEEZED,
        published=printed(source, top1=top1),
        differences=(_UNUSED_NORM,),
        design=PvtDesign(stages=stages(DEPTHS[size], HEADS, mechanisms), norm_is_read=False),
    )


AGENTS = (9, 16, 49, 49)
"""Agents of each stage."""
_LETTERS = {"tiny": "t", "small": "s", "medium": "m", "large": "b"}
_NO_ROW = "a configuration without numbers in the README"
_UNUSED_NORM = (
    "The published code makes a last norm (1,024 parameters) and never calls it; it is kept, so "
    "that the number of parameters and the checkpoints agree."
)

_MODELS = (
    _pvt("tiny", parameters=13.2e6, macs=1.9e9, top1=0.751),
    _pvt("small", parameters=24.5e6, macs=3.8e9, top1=0.798),
    _pvt("medium", parameters=44.2e6, macs=6.7e9, top1=0.812),
    _pvt("large", parameters=61.4e6, macs=9.8e9, top1=0.817),
    _inline("tiny", parameters=12.0e6, macs=2.0e9, top1=0.782),
    _inline("small", parameters=21.6e6, macs=3.9e9, top1=0.820),
    _inline("medium", parameters=37.6e6, macs=6.9e9, top1=0.832),
    _inline(
        "large",
        parameters=50.2e6,
        macs=10.2e9,
        top1=0.836,
        differences=(
            (
                "The README prints 50.2 million parameters; the published code has 51.154 million, "
                "as here."
            ),
        ),
    ),
    _flatten("tiny", macs=2.0e9, top1=0.778),
    _flatten("small", macs=4.0e9, top1=0.817),
    _flatten("medium", macs=7.1e9),
    _flatten("large"),
    _agent("tiny", parameters=11.6e6, macs=2.0e9, top1=0.784),
    _agent("small", parameters=20.6e6, macs=4.0e9, top1=0.822),
    _agent("medium", parameters=35.9e6, macs=7.0e9, top1=0.834),
    _agent("medium", parameters=36.1e6, macs=9.2e9, top1=0.838, resolution_px=256),
    _agent("large", parameters=48.7e6, macs=10.4e9, top1=0.837),
    _pola("tiny", top1=0.788),
    _pola("small", top1=0.819),
    _pola("medium"),
    _pola("large"),
)
BACKBONES = {spec.id: spec for spec in _MODELS}
