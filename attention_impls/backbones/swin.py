"""Swin: a pyramid with attention inside shifted windows, and the networks built on it.

Patches of 4 x 4 px, then four neighbouring tokens are joined, normalised and mapped to twice the
channels before every later stage; blocks of x + attention(norm(x)) and x + mlp(norm(x)) without
absolute positions; the mean of the normalised tokens is classified. The networks with linear
attention use it in the first two or three stages, over the whole map instead of a window, and keep
Swin's windows in the rest.

Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030, section 3 and table 7.

Deviations: dropout and stochastic depth, which act in training alone, are left out. A grid with an
odd side gets a row or column of zeros before four tokens are joined, as in the authors' detection
code; the published classifier refuses it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.adoption import AdoptedAttention, adopted, block_rules, named
from attention_impls.backbone import (
    SQUEEZED,
    BackboneSpec,
    ImagePreparation,
    Mechanism,
    PublishedNumbers,
    printed,
)
from attention_impls.blocks import Maps, Stream, linear_flops
from attention_impls.papers import (
    AGENT_README,
    DENOMINATOR,
    FLATTEN_PLOT,
    INLINE_README,
    LINEAR,
    POLAFORMER_README,
    SWIN,
)
from attention_impls.pyramid import Convolution, Embedding, PyramidDesign, Stage
from attention_impls.shapes import Grid
from attention_impls.spec import StateDict
from attention_impls.variants.agent import AgentOptions
from attention_impls.variants.window_shifted import WindowShiftedOptions

MLP_RATIO = 4
TABLES = {
    "attn_mask": "follows from grid and window",
    "attn.relative_position_index": "follows from the window",
}
"""Ends of published names that are computed here -> why they are not needed."""


@dataclass(frozen=True, slots=True)
class Joining:
    """Four neighbouring tokens become one."""

    def grid(self, of: Grid) -> Grid:
        """Half of the sides, rounded up."""
        return Grid((of.height + 1) // 2, (of.width + 1) // 2)

    def flops(self, inputs: int, outputs: int, of: Grid) -> int:
        """2 n 4 I O."""
        return linear_flops(self.grid(of).tokens, 4 * inputs, outputs)

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Build the module."""
        return JoiningEmbedding(inputs, outputs)


class JoiningEmbedding(nn.Module):
    """Parameters: `norm` over four tokens side by side, `reduce` without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * inputs)
        self.reduce = nn.Linear(4 * inputs, outputs, bias=False)

    def forward(self, maps: Maps) -> Stream:
        """Join (0, 0), (1, 0), (0, 1), (1, 1) of each square of four, in this order."""
        rows, columns = maps.shape[2:]
        if rows % 2 or columns % 2:
            maps = F.pad(maps, (0, columns % 2, 0, rows % 2))
        last = maps.permute(0, 2, 3, 1)
        parts = [last[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduce(self.norm(torch.cat(parts, dim=-1).flatten(1, 2)))


@dataclass(frozen=True, kw_only=True)
class SwinDesign(PyramidDesign):
    """Sizes of one network of this family."""

    embeddings: ClassVar[tuple[Embedding, ...]] = (
        Convolution(4, 4),
        Joining(),
        Joining(),
        Joining(),
    )

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map Swin's names; what joins tokens stands at the end of the stage before in them."""
        rules = [
            named(r"patch_embed\.proj", "stages.0.embed.convolution"),
            named(r"patch_embed\.norm", "stages.0.embed.norm"),
            named("norm", "norm"),
            named("head", "classify"),
            *block_rules(r"layers\.(\d+)\.blocks\.(\d+)", r"stages.\1.blocks.\2"),
        ]
        for index in range(1, len(self.stages)):
            theirs, ours = rf"layers\.{index - 1}\.downsample", f"stages.{index}.embed"
            rules += [
                named(rf"{theirs}\.norm", f"{ours}.norm"),
                named(rf"{theirs}\.reduction", f"{ours}.reduce"),
            ]
        attentions = (
            AdoptedAttention(
                theirs=f"layers.{index}.blocks.{number}.attn.",
                ours=f"stages.{index}.blocks.{number}.attention.",
                spec=mechanism.spec,
            )
            for index, stage in enumerate(self.stages)
            for number, mechanism in enumerate(stage.blocks)
        )
        return adopted(official, rules, attentions)

    def unused_official(self, official: StateDict) -> dict[str, str]:
        """Constant tables of the windowed blocks."""
        return {
            name: reason
            for name in official
            for end, reason in TABLES.items()
            if name.startswith("layers.") and name.endswith(f".{end}")
        }


def windowed(count: int, window: int, before: int = 0) -> tuple[Mechanism, ...]:
    """`count` blocks of windowed attention, every other one shifted; `before` came earlier."""
    return tuple(
        Mechanism(
            variant="window_shifted",
            options=WindowShiftedOptions(window=window, shifted=number % 2 == 1),
        )
        for number in range(before, before + count)
    )


def stages(
    channels: int,
    heads: tuple[int, ...],
    depths: tuple[int, ...],
    *,
    window: int,
    replaced: tuple[int, ...] = (0, 0, 0, 0),
    by: tuple[Mechanism, ...] = (),
) -> tuple[Stage, ...]:
    """Four stages whose channels double.

    Args:
        channels: of the first stage.
        heads: of each stage.
        depths: blocks of each stage.
        window: side of the windows.
        replaced: how many blocks at the start of each stage have another mechanism.
        by: that mechanism in each stage.
    """
    return tuple(
        Stage(
            channels=channels * 2**index,
            heads=heads[index],
            mlp_ratio=MLP_RATIO,
            blocks=tuple(by[index : index + 1]) * replaced[index]
            + windowed(depths[index] - replaced[index], window, replaced[index]),
        )
        for index in range(len(depths))
    )


SIZES = {
    "tiny": (96, (3, 6, 12, 24), (2, 2, 6, 2)),
    "small": (96, (3, 6, 12, 24), (2, 2, 18, 2)),
    "base": (128, (4, 8, 16, 32), (2, 2, 18, 2)),
}
"""Channels, heads and depths."""


def _swin(
    id_: str,
    size: str,
    published: PublishedNumbers,
    *,
    window: int = 7,
    resolution_px: int = 224,
    preparation: ImagePreparation | None = None,
) -> BackboneSpec:
    """One of Swin's own models."""
    return BackboneSpec(
        id=id_,
        title=f"Swin-{size[0].upper()}",
        family="swin",
        variant="window_shifted",
        paper=SWIN,
        resolution_px=resolution_px,
        preparation=preparation or ImagePreparation(),
        published=published,
        design=SwinDesign(stages=stages(*SIZES[size], window=window)),
    )


def _linear(
    id_: str,
    size: str,
    published: PublishedNumbers,
    by: tuple[Mechanism, ...],
    replaced: tuple[int, int, int, int],
    *,
    window: int = 7,
    resolution_px: int = 224,
    differences: tuple[str, ...] = (),
) -> BackboneSpec:
    """A model with another mechanism at the start of some stages, over the whole map."""
    variant = by[0].variant
    name, paper = LINEAR[variant]
    return BackboneSpec(
        id=id_,
        title=f"{name}-Swin-{size[0].upper()}",
        family="swin",
        variant=variant,
        paper=paper,
        resolution_px=resolution_px,
        preparation=SQUEEZED if resolution_px == 224 else WHOLE,
        published=published,
        differences=differences,
        design=SwinDesign(stages=stages(*SIZES[size], window=window, replaced=replaced, by=by)),
    )


WHOLE = ImagePreparation(resize="both_sides", crop_fraction=1.0)
"""The whole picture, squeezed into a square."""
_INLINE = (Mechanism(variant="inline"),) * 4
_FLATTEN = (Mechanism(variant="focused_linear"),) * 4
_AGENT = tuple(
    Mechanism(variant="agent", options=AgentOptions(landmarks=agents)) for agents in (9, 16, 49, 49)
)
_POLA = (Mechanism(variant="polaformer"),) * 4
_README = "README, table of ImageNet-1K results"
_NO_ROW = "a configuration without numbers in paper or README"

_MODELS = (
    _swin(
        "swin_tiny_patch4_window7_224", "tiny",
        printed(_README, parameters=28e6, macs=4.5e9, top1=0.812),
    ),
    _swin(
        "swin_small_patch4_window7_224", "small",
        printed(_README, parameters=50e6, macs=8.7e9, top1=0.832),
    ),
    _swin(
        "swin_base_patch4_window7_224", "base",
        printed(_README, parameters=88e6, macs=15.4e9, top1=0.835),
    ),
    _swin(
        "swin_base_patch4_window12_384_finetune", "base",
        printed(_README, parameters=88e6, macs=47.1e9, top1=0.845),
        window=12, resolution_px=384, preparation=WHOLE,
    ),
    _linear(
        "inline_swin_t", "tiny",
        printed(INLINE_README, parameters=30e6, macs=4.5e9, top1=0.824), _INLINE, (2, 2, 6, 0),
        differences=(
            (
                "The README prints 30 million parameters; the published configuration has InLine "
                "in the first three stages and 29.224 million, as here."
            ),
        ),
    ),
    _linear(
        "inline_swin_s", "small",
        printed(INLINE_README, parameters=50e6, macs=8.7e9, top1=0.836), _INLINE, (2, 2, 0, 0),
    ),
    _linear(
        "inline_swin_b", "base",
        printed(INLINE_README, parameters=88e6, macs=15.4e9, top1=0.841), _INLINE, (2, 2, 2, 0),
    ),
    _linear(
        "inline_swin_b_384", "base", printed(_NO_ROW), _INLINE, (2, 2, 2, 0),
        window=12, resolution_px=384,
    ),
    _linear(
        "flatten_swin_t", "tiny", printed(FLATTEN_PLOT, macs=4.5e9, top1=0.821), _FLATTEN,
        (2, 2, 0, 0), differences=(DENOMINATOR,),
    ),
    _linear(
        "flatten_swin_s", "small", printed(FLATTEN_PLOT, macs=8.8e9, top1=0.835), _FLATTEN,
        (2, 2, 0, 0), differences=(DENOMINATOR,),
    ),
    _linear(
        "flatten_swin_b", "base", printed(FLATTEN_PLOT, macs=15.5e9, top1=0.838), _FLATTEN,
        (2, 2, 0, 0), differences=(DENOMINATOR,),
    ),
    _linear(
        "flatten_swin_b_384", "base", printed(FLATTEN_PLOT, top1=0.850), _FLATTEN, (2, 2, 0, 0),
        window=12, resolution_px=384, differences=(DENOMINATOR,),
    ),
    _linear(
        "agent_swin_t", "tiny", printed(AGENT_README, parameters=29e6, macs=4.5e9, top1=0.826),
        _AGENT, (2, 2, 6, 0),
    ),
    _linear(
        "agent_swin_s", "small", printed(AGENT_README, parameters=50e6, macs=8.7e9, top1=0.837),
        _AGENT, (2, 2, 0, 0),
    ),
    _linear(
        "agent_swin_s_288", "small",
        printed(AGENT_README, parameters=50e6, macs=14.6e9, top1=0.841), _AGENT, (2, 2, 0, 0),
        window=9, resolution_px=288,
    ),
    _linear(
        "agent_swin_b", "base", printed(AGENT_README, parameters=88e6, macs=15.4e9, top1=0.840),
        _AGENT, (2, 2, 2, 0),
    ),
    _linear(
        "agent_swin_b_384", "base",
        printed(AGENT_README, parameters=88e6, macs=46.3e9, top1=0.849), _AGENT, (2, 2, 2, 0),
        window=12, resolution_px=384,
    ),
    _linear(
        "pola_swin_t", "tiny", printed(POLAFORMER_README, top1=0.826), _POLA, (2, 2, 0, 0),
    ),
    _linear(
        "pola_swin_s", "small", printed(POLAFORMER_README, top1=0.836), _POLA, (2, 2, 0, 0),
    ),
    _linear(
        "pola_swin_b", "base", printed(POLAFORMER_README, top1=0.838), _POLA, (2, 2, 0, 0),
    ),
    _linear(
        "pola_swin_b_384", "base", printed(_NO_ROW), _POLA, (2, 2, 0, 0),
        window=12, resolution_px=384,
    ),
)  # fmt: skip
BACKBONES = {spec.id: spec for spec in _MODELS}
