"""CSwin: a pyramid with attention inside horizontal and vertical stripes, and what is built on it.

A 7 x 7 convolution of stride 4 and a norm, then a 3 x 3 convolution of stride 2 and a norm before
every later stage; blocks of x + attention(norm(x)) and x + mlp(norm(x)), whose attention adds a 3 x
3 depthwise convolution of the values (locally enhanced positions) before the output projection; the
mean of the normalised tokens is classified. The networks with linear attention use it over the
whole map in the first two stages, with that convolution beside it, and stripes in the rest.

Dong et al., "CSWin Transformer", CVPR 2022, https://arxiv.org/abs/2107.00652, section 3, table 1.

Deviations: dropout and stochastic depth, which act in training alone, are left out.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attention_impls.adoption import AdoptedAttention, adopted, block_rules, named
from attention_impls.backbone import (
    SQUEEZED,
    BackboneSpec,
    ImagePreparation,
    Mechanism,
    Placed,
    PublishedNumbers,
    printed,
)
from attention_impls.blocks import Block, LocalPositionBlock, convolution_flops
from attention_impls.multihead import MultiHead
from attention_impls.papers import (
    AGENT_README,
    CSWIN,
    DENOMINATOR,
    FLATTEN_PLOT,
    INLINE_README,
    LINEAR,
)
from attention_impls.pyramid import Convolution, Embedding, PyramidDesign, Stage
from attention_impls.spec import StateDict
from attention_impls.variants.agent import AgentOptions
from attention_impls.variants.cross_shaped_window import CrossShapedWindowOptions

MLP_RATIO = 4
STRIPED = "cross_shaped_window"


@dataclass(frozen=True, kw_only=True)
class CswinDesign(PyramidDesign):
    """Sizes of one network of this family."""

    embeddings: ClassVar[tuple[Embedding, ...]] = (
        Convolution(7, 4, 2),
        Convolution(3, 2, 1),
        Convolution(3, 2, 1),
        Convolution(3, 2, 1),
    )

    def block(self, stage: Stage, placed: Placed) -> nn.Module:
        """The stripes bring their own convolution of the values; others get one."""
        layer = placed.build()
        if placed.mechanism.variant == STRIPED:
            return Block(layer, stage.channels, stage.mlp_channels)
        if not isinstance(layer, MultiHead) or not _is_plain(layer):
            raise TypeError(f"{placed.where}: {_needs_a_mix(placed)}")
        return LocalPositionBlock(layer, stage.channels, stage.mlp_channels)

    def block_flops(self, stage: Stage, placed: Placed) -> int:
        """4 N C H, and 2 N C 3^2 for the convolution that stripes count themselves."""
        flops = super().block_flops(stage, placed)
        if placed.mechanism.variant == STRIPED:
            return flops
        channels = stage.channels
        return flops + convolution_flops(placed.shape.tokens, channels, channels, 3, channels)

    def limits(self, resolution_px: int) -> tuple[str, ...]:
        """Whatever stands beside the convolution of the values has a mix between projections."""
        if reasons := super().limits(resolution_px):
            return reasons
        found: list[str] = []
        different = {(p.mechanism, p.shape): p for p in self.attentions(resolution_px)}
        for placed in different.values():
            if placed.mechanism.variant == STRIPED or placed.unsupported():
                continue
            with torch.device("meta"):
                if not _is_plain(placed.build()):
                    found.append(_needs_a_mix(placed))
        return tuple(dict.fromkeys(found))

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map CSwin's names; the projections stand beside the branches of attention in them."""
        rules = [
            named(r"stage1_conv_embed\.0", "stages.0.embed.convolution"),
            named(r"stage1_conv_embed\.2", "stages.0.embed.norm"),
            named("norm", "norm"),
            named("head", "classify"),
        ]
        attentions: list[AdoptedAttention] = []
        for index, stage in enumerate(self.stages):
            theirs = f"stage{index + 1}"
            rules += block_rules(rf"{theirs}\.(\d+)", rf"stages.{index}.blocks.\1")
            if index:
                ours = f"stages.{index}.embed"
                rules += [
                    named(rf"merge{index}\.conv", f"{ours}.convolution"),
                    named(rf"merge{index}\.norm", f"{ours}.norm"),
                ]
            for number, mechanism in enumerate(stage.blocks):
                striped = mechanism.variant == STRIPED
                ours = f"stages.{index}.blocks.{number}"
                if not striped:
                    branch = rf"{theirs}\.{number}\.attns\.0\.get_v"
                    rules.append(named(branch, f"{ours}.local_positions"))
                attentions.append(
                    AdoptedAttention(
                        theirs=f"{theirs}.{number}.",
                        ours=f"{ours}.attention.",
                        spec=mechanism.spec,
                        only=("qkv.", "proj.", "attns."),
                        left=() if striped else ("attns.0.get_v.",),
                        moved=() if striped else (("attns.0.", ""),),
                    )
                )
        return adopted(official, rules, attentions)


def _is_plain(layer: nn.Module) -> bool:
    """The layer is projections around a mix and nothing else."""
    return type(layer) is MultiHead


def _needs_a_mix(placed: Placed) -> str:
    return (
        f"{placed.mechanism.variant}: its layer is not projections around a mix, so the "
        "convolution of the values has no place in it; use another family"
    )


def striped(count: int, stripe: int, *, whole_grid: bool) -> tuple[Mechanism, ...]:
    """`count` blocks with stripes of so many tokens, or with one window over the whole grid."""
    options = CrossShapedWindowOptions(stripe=stripe, whole_grid=whole_grid)
    return (Mechanism(variant=STRIPED, options=options),) * count


def stages(
    channels: int,
    heads: tuple[int, ...],
    depths: tuple[int, ...],
    stripes: tuple[int, ...],
    linear: tuple[Mechanism, ...] = (),
) -> tuple[Stage, ...]:
    """Four stages whose channels double; `linear` replaces the stripes of the first stages."""
    return tuple(
        Stage(
            channels=channels * 2**index,
            heads=heads[index],
            mlp_ratio=MLP_RATIO,
            blocks=linear[index : index + 1] * depth
            or striped(depth, stripes[index], whole_grid=index == len(depths) - 1),
        )
        for index, depth in enumerate(depths)
    )


AT_224 = (1, 2, 7, 7)
AT_384 = (1, 2, 12, 12)
NARROW_HEADS = (2, 4, 8, 16)
WIDE_HEADS = (4, 8, 16, 32)


def _cswin(
    id_: str,
    size: str,
    published: PublishedNumbers,
    parts: tuple[Stage, ...],
    *,
    resolution_px: int = 224,
    differences: tuple[str, ...] = (),
) -> BackboneSpec:
    """One of CSwin's own models; timm crops 0.9 of the side, and all of it at 384 px."""
    return BackboneSpec(
        id=id_,
        title=f"CSwin-{size}",
        family="cswin",
        variant=STRIPED,
        paper=CSWIN,
        resolution_px=resolution_px,
        preparation=ImagePreparation(crop_fraction=1.0 if resolution_px == 384 else 0.9),
        published=published,
        differences=differences,
        design=CswinDesign(stages=parts),
    )


def _linear(
    id_: str,
    size: str,
    published: PublishedNumbers,
    parts: tuple[Stage, ...],
    *,
    resolution_px: int = 224,
    differences: tuple[str, ...] = (),
) -> BackboneSpec:
    """A model with linear attention in its first two stages."""
    variant = parts[0].blocks[0].variant
    name, paper = LINEAR[variant]
    return BackboneSpec(
        id=id_,
        title=f"{name}-CSwin-{size}",
        family="cswin",
        variant=variant,
        paper=paper,
        resolution_px=resolution_px,
        preparation=SQUEEZED,
        published=published,
        differences=differences,
        design=CswinDesign(stages=parts),
    )


_README = "README, table of ImageNet-1K results"
_INLINE = (Mechanism(variant="inline"),) * 2
_FLATTEN = (Mechanism(variant="focused_linear"),) * 2
_AGENT = tuple(
    Mechanism(variant="agent", options=AgentOptions(landmarks=agents, local_residual=False))
    for agents in (9, 16)
)


def _borrowed(printed_: str, figure: str, real: str) -> tuple[str, ...]:
    return (
        (
            f"The README prints {printed_} million parameters, the number of another paper's "
            f"README (MLLA), and its figure {figure} million; the published code has {real} "
            "million, as here."
        ),
    )


_MODELS = (
    _cswin(
        "cswin_64_12211_tiny_224", "T", printed(_README, parameters=23e6, macs=4.3e9, top1=0.828),
        stages(64, NARROW_HEADS, (1, 2, 21, 1), AT_224),
    ),
    _cswin(
        "cswin_64_24322_small_224", "S", printed(_README, parameters=35e6, macs=6.9e9, top1=0.836),
        stages(64, NARROW_HEADS, (2, 4, 32, 2), AT_224),
    ),
    _cswin(
        "cswin_96_24322_base_224", "B", printed(_README, parameters=78e6, macs=15.0e9, top1=0.842),
        stages(96, WIDE_HEADS, (2, 4, 32, 2), AT_224),
    ),
    _cswin(
        "cswin_144_24322_large_224", "L", printed(_README, parameters=173e6, macs=31.5e9),
        stages(144, (6, 12, 24, 24), (2, 4, 32, 2), AT_224),
        differences=(
            (
                "The README prints 31.5 billion multiply-adds; the published code has 33.190 "
                "billion by the counter that gives the printed numbers of the smaller models."
            ),
        ),
    ),
    _cswin(
        "cswin_96_24322_base_384", "B", printed(_README, parameters=78e6, macs=47.0e9, top1=0.855),
        stages(96, WIDE_HEADS, (2, 4, 32, 2), AT_384), resolution_px=384,
    ),
    _linear(
        "inline_cswin_t", "T", printed(INLINE_README, parameters=25e6, macs=4.3e9, top1=0.832),
        stages(64, NARROW_HEADS, (2, 4, 18, 1), AT_224, _INLINE),
        differences=_borrowed("25", "21", "20.605"),
    ),
    _linear(
        "inline_cswin_s", "S", printed(INLINE_README, parameters=43e6, macs=6.8e9, top1=0.838),
        stages(64, NARROW_HEADS, (3, 6, 29, 2), AT_224, _INLINE),
        differences=_borrowed("43", "33", "33.033"),
    ),
    _linear(
        "inline_cswin_b", "B", printed(INLINE_README, parameters=96e6, macs=14.9e9, top1=0.845),
        stages(96, WIDE_HEADS, (3, 6, 29, 2), AT_224, _INLINE),
        differences=_borrowed("96", "73", "73.414"),
    ),
    _linear(
        "inline_cswin_b_384", "B", printed("README, figure fig2_cls.png", top1=0.857),
        stages(96, WIDE_HEADS, (3, 6, 29, 2), AT_384, _INLINE), resolution_px=384,
    ),
    _linear(
        "flatten_cswin_t", "T", printed(FLATTEN_PLOT, macs=4.3e9, top1=0.831),
        stages(64, NARROW_HEADS, (2, 4, 18, 1), AT_224, _FLATTEN), differences=(DENOMINATOR,),
    ),
    _linear(
        "flatten_cswin_s", "S", printed(FLATTEN_PLOT, macs=6.8e9, top1=0.838),
        stages(64, NARROW_HEADS, (2, 4, 32, 2), AT_224, _FLATTEN), differences=(DENOMINATOR,),
    ),
    _linear(
        "flatten_cswin_b", "B", printed(FLATTEN_PLOT, macs=15.0e9, top1=0.845),
        stages(96, WIDE_HEADS, (3, 6, 29, 2), AT_224, _FLATTEN), differences=(DENOMINATOR,),
    ),
    _linear(
        "flatten_cswin_b_384", "B", printed("README, list of models", top1=0.855),
        stages(96, WIDE_HEADS, (3, 6, 29, 2), AT_384, _FLATTEN), resolution_px=384,
        differences=(DENOMINATOR,),
    ),
    _linear(
        "agent_cswin_t", "T", printed(AGENT_README, parameters=21e6, macs=4.3e9, top1=0.831),
        stages(64, NARROW_HEADS, (2, 4, 18, 1), AT_224, _AGENT),
    ),
    _linear(
        "agent_cswin_s", "S", printed(AGENT_README, parameters=33e6, macs=6.8e9, top1=0.839),
        stages(64, NARROW_HEADS, (3, 6, 29, 2), AT_224, _AGENT),
    ),
    _linear(
        "agent_cswin_b", "B", printed(AGENT_README, parameters=73e6, macs=14.9e9, top1=0.847),
        stages(96, WIDE_HEADS, (3, 6, 29, 2), AT_224, _AGENT),
    ),
    _linear(
        "agent_cswin_b_384", "B",
        printed(AGENT_README, parameters=73e6, macs=46.3e9, top1=0.858),
        stages(96, WIDE_HEADS, (3, 6, 29, 2), AT_384, _AGENT), resolution_px=384,
    ),
)  # fmt: skip
BACKBONES = {spec.id: spec for spec in _MODELS}
