"""MLLA (later called MILA): a pyramid of Mamba's blocks with linear attention inside.

A stem of five convolutions with batch norm makes tokens of 4 x 4 px; every later stage begins with
a 1 x 1 convolution to four times its channels, a depthwise 3 x 3 convolution of stride 2, a 1 x 1
convolution and batch norm; blocks of x + conv(x), x + attention(norm(x)), x + conv(x) and x +
mlp(norm(x)), where conv is a depthwise 3 x 3 convolution that gives positions; the mean of the
normalised tokens is classified.

Han et al., "Demystify Mamba in Vision: A Linear Attention Perspective", NeurIPS 2024,
https://arxiv.org/abs/2405.16605.

Deviations: dropout and stochastic depth, which act in training alone, are left out. The published
code refuses images whose maps have odd sides; here the convolutions round up.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attention_impls.adoption import AdoptedAttention, adopted, block_rules, named
from attention_impls.backbone import BackboneSpec, Mechanism, Placed, printed
from attention_impls.blocks import Block, Maps, Stream, convolution_flops, maps_of, tokens_of
from attention_impls.papers import MILA
from attention_impls.pyramid import Embedding, PyramidDesign, Stage
from attention_impls.shapes import Grid
from attention_impls.spec import StateDict

MLP_RATIO = 4
WIDENED = 4
"""Channels inside the stem's last step and inside what joins tokens / channels after it."""
TABLE = "attn.rope.rotations"
"""End of published names of the rotations, which follow from the grid."""


def _halved(of: Grid) -> Grid:
    """Layout after a 3x3 convolution of stride 2 with padding 1."""
    return Grid((of.height + 1) // 2, (of.width + 1) // 2)


@dataclass(frozen=True, slots=True)
class Stem:
    """Convolutions of strides 2, 1, 1, 2 and 1; the middle two beside an identity."""

    def grid(self, of: Grid) -> Grid:
        """A quarter of the sides, rounded up twice."""
        return _halved(_halved(of))

    def flops(self, inputs: int, outputs: int, of: Grid) -> int:
        """2 n I O s^2 of each convolution."""
        half, last, inner = _halved(of).tokens, self.grid(of).tokens, outputs // 2
        return (
            convolution_flops(half, inputs, inner, 3)
            + 2 * convolution_flops(half, inner, inner, 3)
            + convolution_flops(last, inner, WIDENED * outputs, 3)
            + convolution_flops(last, WIDENED * outputs, outputs, 1)
        )

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Build the module."""
        return StemEmbedding(inputs, outputs)


class StemEmbedding(nn.Module):
    """Parameters: `enter`, `middle`, `leave`: convolutions without bias, each with batch norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner, wide = outputs // 2, WIDENED * outputs
        self.enter = normed(inputs, inner, 3, 2)
        self.middle = nn.Sequential(normed(inner, inner, 3, 1), normed(inner, inner, 3, 1))
        self.leave = nn.Sequential(normed(inner, wide, 3, 2), normed(wide, outputs, 1, 1))

    def forward(self, maps: Maps) -> Stream:
        """Return tokens; ReLU stands after every convolution but the last of `middle`, `leave`."""
        x = self.enter(maps).relu()
        x = self.middle[1](self.middle[0](x).relu()) + x
        return tokens_of(self.leave[1](self.leave[0](x).relu()))


def normed(inputs: int, outputs: int, side: int, stride: int) -> nn.Sequential:
    """Return a convolution without bias and its batch norm."""
    convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


@dataclass(frozen=True, slots=True)
class WideHalving:
    """To four times the new channels, a depthwise convolution of stride 2, and back."""

    def grid(self, of: Grid) -> Grid:
        """Half of the sides, rounded up."""
        return _halved(of)

    def flops(self, inputs: int, outputs: int, of: Grid) -> int:
        """2 n I W + 18 m W + 2 m W O for n tokens before, m after, W = 4 O."""
        wide, after = WIDENED * outputs, self.grid(of).tokens
        return (
            convolution_flops(of.tokens, inputs, wide, 1)
            + convolution_flops(after, wide, wide, 3, wide)
            + convolution_flops(after, wide, outputs, 1)
        )

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Build the module."""
        return WideHalvingEmbedding(inputs, outputs)


class WideHalvingEmbedding(nn.Module):
    """Parameters: `layers`, three convolutions with ReLU between them, and batch norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = WIDENED * outputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, wide, 1),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 2, 1, groups=wide),
            nn.ReLU(),
            nn.Conv2d(wide, outputs, 1),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, maps: Maps) -> Stream:
        """Return tokens."""
        return tokens_of(self.layers(maps))


class PlacedBlock(Block):
    """A block with a depthwise 3x3 convolution before each branch.

    Parameters: those of `Block`, `attention_place` and `mlp_place`.
    """

    def __init__(self, attention: nn.Module, channels: int, inner: int) -> None:
        super().__init__(attention, channels, inner)
        self.attention_place = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.mlp_place = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Apply both branches, each after its convolution."""
        x = x + tokens_of(self.attention_place(maps_of(x, grid)))
        x = x + self.attention(self.attention_norm(x), grid)
        x = x + tokens_of(self.mlp_place(maps_of(x, grid)))
        return x + self.mlp(self.mlp_norm(x))


@dataclass(frozen=True, kw_only=True)
class MllaDesign(PyramidDesign):
    """Sizes of one network of this family."""

    embeddings: ClassVar[tuple[Embedding, ...]] = (
        Stem(),
        WideHalving(),
        WideHalving(),
        WideHalving(),
    )

    def block(self, stage: Stage, placed: Placed) -> nn.Module:
        """Blocks with convolutions for positions."""
        return PlacedBlock(placed.build(), stage.channels, stage.mlp_channels)

    def block_flops(self, stage: Stage, placed: Placed) -> int:
        """4 N C H, and 18 N C of each convolution."""
        channels = stage.channels
        place = convolution_flops(placed.shape.tokens, channels, channels, 3, channels)
        return super().block_flops(stage, placed) + 2 * place

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map the authors' names; what joins tokens stands at the end of the stage before."""
        stem, block, ours = "patch_embed", r"layers\.(\d+)\.blocks\.(\d+)", r"stages.\1.blocks.\2"
        steps = {"conv1": "enter", r"conv2\.(\d)": r"middle.\1", r"conv3\.(\d)": r"leave.\1"}
        rules = [
            named("norm", "norm"),
            named("head", "classify"),
            *block_rules(block, ours),
            named(rf"{block}\.cpe1", f"{ours}.attention_place"),
            named(rf"{block}\.cpe2", f"{ours}.mlp_place"),
        ]
        for theirs, known in steps.items():
            rules += [
                (rf"{stem}\.{theirs}\.conv\.weight", f"stages.0.embed.{known}.0.weight"),
                (
                    rf"{stem}\.{theirs}\.norm\.(?P<entry>\w+)",
                    rf"stages.0.embed.{known}.1.\g<entry>",
                ),
            ]
        for index in range(1, len(self.stages)):
            rules += [
                named(
                    rf"layers\.{index - 1}\.downsample\.conv\.{number}\.conv",
                    f"stages.{index}.embed.layers.{2 * number}",
                )
                for number in range(3)
            ]
            rules.append(
                (
                    rf"layers\.{index - 1}\.downsample\.conv\.2\.norm\.(.+)",
                    rf"stages.{index}.embed.layers.5.\1",
                )
            )
        attentions = (
            AdoptedAttention(
                theirs=f"layers.{index}.blocks.{number}.",
                ours=f"stages.{index}.blocks.{number}.attention.",
                spec=mechanism.spec,
                only=("in_proj.", "act_proj.", "dwc.", "attn.", "out_proj."),
            )
            for index, stage in enumerate(self.stages)
            for number, mechanism in enumerate(stage.blocks)
        )
        return adopted(official, rules, attentions)

    def unused_official(self, official: StateDict) -> dict[str, str]:
        """The tables of rotations."""
        return {
            name: "follows from grid and channels"
            for name in official
            if name.startswith("layers.") and name.endswith(f".{TABLE}")
        }


def _model(
    letter: str,
    channels: int,
    heads: int,
    depths: tuple[int, ...],
    *,
    parameters: float,
    macs: float,
    top1: float,
) -> BackboneSpec:
    """One network; channels and heads double from stage to stage."""
    return BackboneSpec(
        id=f"mlla_{letter}",
        title=f"MLLA-{letter.upper()}",
        family="mlla",
        variant="mila",
        paper=MILA,
        resolution_px=224,
        published=printed("README, table of models", parameters=parameters, macs=macs, top1=top1),
        differences=("The paper calls these networks MILA in its final version.",),
        design=MllaDesign(
            stages=tuple(
                Stage(
                    channels=channels * 2**index,
                    heads=heads * 2**index,
                    mlp_ratio=MLP_RATIO,
                    blocks=(Mechanism(variant="mila"),) * depth,
                )
                for index, depth in enumerate(depths)
            )
        ),
    )


_MODELS = (
    _model("t", 64, 2, (2, 4, 8, 4), parameters=25e6, macs=4.2e9, top1=0.835),
    _model("s", 64, 2, (3, 6, 21, 6), parameters=43e6, macs=7.3e9, top1=0.844),
    _model("b", 96, 3, (3, 6, 21, 6), parameters=96e6, macs=16.2e9, top1=0.853),
)
BACKBONES = {spec.id: spec for spec in _MODELS}
