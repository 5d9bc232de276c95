"""SOFT: a pyramid whose first three stages attend without softmax, and its normalised form.

The stem is three 3x3 convolutions of strides 2, 1, 2 with batch norm and ReLU, later stages begin
with one of stride 2. Stages 1 to 3 normalise after each branch, norm(x + attention(x)) and norm(x +
mlp(x)), with the tanh form of GELU; stage 4 is PVT's, softmax attention beside a class token, which
is classified after a last norm.

Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", NeurIPS 2021,
https://arxiv.org/abs/2110.11945, Section 3.4 and table 1; for the normalised form Lu et al.,
"Softmax-free Linear Transformers", IJCV 2024, https://arxiv.org/abs/2207.03341.

Deviations: dropout, which acts in training alone, is left out. As in the published code a landmark
stands for 8 x 8, 4 x 4 and 2 x 2 tokens, so that their number grows with the image; the papers fix
49 (option landmark_rule of the variants), which is the same at 224 px.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attention_impls.adoption import AdoptedAttention, adopted, block_rules, named
from attention_impls.backbone import (
    BackboneSpec,
    ImagePreparation,
    Mechanism,
    Placed,
    PublishedNumbers,
    printed,
)
from attention_impls.blocks import Maps, Stream, convolution_flops, tokens_of
from attention_impls.papers import SOFT, SOFT_NORM
from attention_impls.pyramid import Embedding, PyramidDesign, Stage
from attention_impls.shapes import Grid
from attention_impls.spec import Paper, StateDict
from attention_impls.variants.soft import SoftOptions
from attention_impls.variants.soft_norm import SoftNormOptions

STEM_CHANNELS = 32
TABLE_SIDES = {0: 56, 1: 28, 2: 14, 3: 7}
"""Rows and columns of the learned positions in each stage, whatever the resolution."""


def _halved(of: Grid) -> Grid:
    """Layout after a 3x3 convolution of stride 2 with padding 1."""
    return Grid((of.height + 1) // 2, (of.width + 1) // 2)


@dataclass(frozen=True, slots=True)
class Stem:
    """Three 3x3 convolutions of strides 2, 1, 2."""

    def grid(self, of: Grid) -> Grid:
        """A quarter of the sides, rounded up twice."""
        return _halved(_halved(of))

    def flops(self, inputs: int, outputs: int, of: Grid) -> int:
        """2 n I O 3^2 of each convolution."""
        half = _halved(of).tokens
        return (
            convolution_flops(half, inputs, STEM_CHANNELS, 3)
            + convolution_flops(half, STEM_CHANNELS, STEM_CHANNELS, 3)
            + convolution_flops(self.grid(of).tokens, STEM_CHANNELS, outputs, 3)
        )

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Build the module."""
        return BatchNormEmbedding(
            (inputs, STEM_CHANNELS, 2),
            (STEM_CHANNELS, STEM_CHANNELS, 1),
            (STEM_CHANNELS, outputs, 2),
        )


@dataclass(frozen=True, slots=True)
class Halving:
    """One 3x3 convolution of stride 2."""

    def grid(self, of: Grid) -> Grid:
        """Half of the sides, rounded up."""
        return _halved(of)

    def flops(self, inputs: int, outputs: int, of: Grid) -> int:
        """2 n I O 3^2."""
        return convolution_flops(self.grid(of).tokens, inputs, outputs, 3)

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Build the module."""
        return BatchNormEmbedding((inputs, outputs, 2))


class BatchNormEmbedding(nn.Module):
    """3x3 convolutions, each followed by batch norm and ReLU. Parameters: `layers`."""

    def __init__(self, *convolutions: tuple[int, int, int]) -> None:
        """Build from (inputs, outputs, stride) of each convolution."""
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in convolutions:
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Maps) -> Stream:
        """Return tokens."""
        return tokens_of(self.layers(maps))


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, attention: nn.Module, channels: int, inner: int) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, channels)
        )
        self.mlp_norm = nn.LayerNorm(channels)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Apply both branches."""
        x = self.attention_norm(x + self.attention(x, grid))
        return self.mlp_norm(x + self.mlp(x))


@dataclass(frozen=True, kw_only=True)
class SoftDesign(PyramidDesign):
    """Sizes of one network of this family."""

    class_token: bool = True
    epsilon: float = 1e-6
    embeddings: ClassVar[tuple[Embedding, ...]] = (Stem(), Halving(), Halving(), Halving())

    def block(self, stage: Stage, placed: Placed) -> nn.Module:
        """Post-norm blocks up to the last stage."""
        if stage is self.stages[-1]:
            return super().block(stage, placed)
        return PostNormBlock(placed.build(), stage.channels, stage.mlp_channels)

    def position_grid(self, index: int, grid: Grid) -> Grid:  # noqa: ARG002
        """The tables keep the size that they have at 224 px and are interpolated at every call."""
        return Grid(TABLE_SIDES[index], TABLE_SIDES[index])

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map the names of the authors; stages are numbered from 1 in them."""
        last = len(self.stages)
        rules = [("cls_token", "class_token"), named("norm", "norm"), named("head", "classify")]
        rules += block_rules(rf"block{last}\.(\d+)", rf"stages.{last - 1}.blocks.\1")
        for index in range(last):
            theirs, ours = index + 1, rf"stages.{index}"
            rules += [
                (f"pos_embed{theirs}", f"{ours}.positions"),
                (rf"patch_embed{theirs}\.proj\.(.+)", rf"{ours}.embed.layers.\1"),
            ]
            for name, known in _POST_NORM:
                rules.append(
                    named(rf"block{theirs}\.(\d+)\.att\.{name}", rf"{ours}.blocks.\1.{known}")
                )
        attentions = (
            AdoptedAttention(
                theirs=f"block{index + 1}.{number}.{'attn' if index == last - 1 else 'att.mha'}.",
                ours=f"stages.{index}.blocks.{number}.attention.",
                spec=mechanism.spec,
            )
            for index, stage in enumerate(self.stages)
            for number, mechanism in enumerate(stage.blocks)
        )
        return adopted(official, rules, attentions)


_README = "README, table of ImageNet-1K results"
_POST_NORM = (
    ("norm1", "attention_norm"),
    ("norm2", "mlp_norm"),
    ("ff1", "mlp.0"),
    ("ff2", "mlp.2"),
)
_DEPTHS = {
    "tiny": (1, 2, 3, 2),
    "small": (1, 3, 20, 4),
    "medium": (1, 3, 29, 5),
    "large": (1, 3, 40, 5),
    "huge": (1, 5, 49, 5),
}
_THIRD_STAGE_CHANNELS = {"tiny": 320, "small": 320, "medium": 288, "large": 320, "huge": 352}
_BY_STAGE = ((8, 9), (4, 5), (2, 3))
"""Side of the square of tokens that a landmark stands for, and of the convolution of the values."""


def _design(size: str, *, normalised: bool) -> SoftDesign:
    variant = "soft_norm" if normalised else "soft"
    mechanisms = [
        Mechanism(
            variant=variant,
            options=SoftNormOptions(
                landmark_rule="stride", stride=stride, local_size=side, initial_scale="global"
            )
            if normalised
            else SoftOptions(landmark_rule="stride", stride=stride, local_size=side),
        )
        for stride, side in _BY_STAGE
    ]
    channels = (64, 128, _THIRD_STAGE_CHANNELS[size], 512)
    return SoftDesign(
        stages=tuple(
            Stage(channels=width, heads=width // 32, mlp_ratio=4, blocks=(mechanism,) * depth)
            for width, depth, mechanism in zip(
                channels, _DEPTHS[size], [*mechanisms, Mechanism(variant="softmax")], strict=True
            )
        )
    )


def _model(
    size: str, *, parameters: float, macs: float, top1: tuple[float, float]
) -> tuple[BackboneSpec, BackboneSpec]:
    """The plain and the normalised form of one size."""

    def one(suffix: str, variant: str, paper: Paper, numbers: PublishedNumbers) -> BackboneSpec:
        return BackboneSpec(
            id=f"soft_{size}{suffix}",
            title=f"SOFT-{size.capitalize()}{suffix.replace('_', '-')}",
            family="soft",
            variant=variant,
            paper=paper,
            resolution_px=224,
            preparation=ImagePreparation(crop_fraction=0.9),
            published=numbers,
            differences=_differences(size, normalised=variant == "soft_norm"),
            design=_design(size, normalised=variant == "soft_norm"),
        )

    plain, normalised = (
        printed(_README, parameters=parameters, macs=macs, top1=share) for share in top1
    )
    return (
        one("", "soft", SOFT, plain),
        one("_norm", "soft_norm", SOFT_NORM, normalised),
    )


def _differences(size: str, *, normalised: bool) -> tuple[str, ...]:
    found = [
        "The printed multiply-adds leave out Newton's iteration; the count here includes it.",
        (
            "The published code multiplies by matrices of ones for squared norms, (h + 1) (N + m) "
            "m d multiply-adds a block of h heads, N tokens, m landmarks and d channels a head, "
            "and K with the inverse before K^T V instead of after, h m^2 (N - d) more; neither is "
            "done here."
        ),
    ]
    if not normalised:
        found.append(
            "The published code's own function hides Newton's iteration, 40 h m^3 multiply-adds a "
            "block, from the counter."
        )
    if size == "small":
        found.append(
            "The README prints 24 million parameters, those of 7 blocks in the third stage as in "
            "the paper; the published code has 20 there and 38.858 million, as here."
        )
    if normalised:
        found.append(
            "The published class cannot be constructed at the cited commit (a constructor names a "
            "class that does not exist); compared with it after that name was corrected."
        )
    return tuple(found)


_MODELS = (
    *_model("tiny", parameters=13e6, macs=1.9e9, top1=(0.793, 0.794)),
    *_model("small", parameters=24e6, macs=3.3e9, top1=(0.822, 0.824)),
    *_model("medium", parameters=45e6, macs=7.2e9, top1=(0.829, 0.831)),
    *_model("large", parameters=64e6, macs=11.0e9, top1=(0.831, 0.833)),
    *_model("huge", parameters=87e6, macs=16.3e9, top1=(0.833, 0.834)),
)
BACKBONES = {spec.id: spec for spec in _MODELS}
