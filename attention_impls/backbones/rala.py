"""RAVLT: a pyramid with rank-augmented linear attention (RALA) in its first two stages.

A stem of four 3 x 3 convolutions with batch norm makes tokens of 4 x 4 px, later stages begin with
one of stride 2; blocks of x + conv(x), x + g attention(norm(x)) and x + h mlp(norm(x)) with a
depthwise 3 x 3 convolution for positions, another inside the perceptron and learned factors g and h
a channel. The last two stages attend by softmax between rotated queries and keys, with the gate and
the 5 x 5 convolution of the values that RALA has. The tokens are mapped to 1,024 channels, batch
normed, passed through SiLU, and their mean is classified.

Fan, Huang, He, "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025,
https://arxiv.org/abs/2411.07635.

Deviations: stochastic depth, which acts in training alone, is left out. The 1 x 1 convolutions of
the published code are linear maps here.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attention_impls.adoption import AdoptedAttention, adopted, named
from attention_impls.backbone import BackboneSpec, Mechanism, Placed, printed
from attention_impls.blocks import (
    Maps,
    Stream,
    convolution_flops,
    linear_flops,
    mlp_flops,
    tokens_of,
)
from attention_impls.multihead import MultiHead
from attention_impls.papers import RALA
from attention_impls.parts.grid_rotation import head_rotation_limits
from attention_impls.pyramid import Embedding, Pyramid, PyramidDesign, Stage
from attention_impls.ravlt import (
    LAST_CHANNELS,
    LOCAL_SIZE,
    GatedRotaryBlock,
    ScaledBlock,
    Widening,
)
from attention_impls.shapes import Grid
from attention_impls.spec import StateDict

MLP_RATIO = 3.5
SOFTMAX = "softmax"
UNUSED = {"RoPE.angle": "follows from the channels of a head"}
"""Ends of published names that are computed here -> why they are not needed."""


def _halved(of: Grid) -> Grid:
    """Layout after a 3x3 convolution of stride 2 with padding 1."""
    return Grid((of.height + 1) // 2, (of.width + 1) // 2)


@dataclass(frozen=True, slots=True)
class Stem:
    """Four 3x3 convolutions of strides 2, 1, 1, 2."""

    def grid(self, of: Grid) -> Grid:
        """A quarter of the sides, rounded up twice."""
        return _halved(_halved(of))

    def flops(self, inputs: int, outputs: int, of: Grid) -> int:
        """2 n I O 3^2 of each convolution."""
        half, inner = _halved(of).tokens, outputs // 2
        return (
            convolution_flops(half, inputs, inner, 3)
            + 2 * convolution_flops(half, inner, inner, 3)
            + convolution_flops(self.grid(of).tokens, inner, outputs, 3)
        )

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Build the module."""
        inner = outputs // 2
        return NormedConvolutions(
            (inputs, inner, 2), (inner, inner, 1), (inner, inner, 1), (inner, outputs, 2)
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
        return NormedConvolutions((inputs, outputs, 2))


class NormedConvolutions(nn.Module):
    """3x3 convolutions with batch norm, GELU between them. Parameters: `layers`."""

    def __init__(self, *convolutions: tuple[int, int, int]) -> None:
        """Build from (inputs, outputs, stride) of each convolution."""
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in convolutions:
            layers += [nn.GELU()] if layers else []
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Maps) -> Stream:
        """Return tokens."""
        return tokens_of(self.layers(maps))


@dataclass(frozen=True, kw_only=True)
class RavltDesign(PyramidDesign):
    """Sizes of one network of this family."""

    epsilon: float = 1e-6
    embeddings: ClassVar[tuple[Embedding, ...]] = (Stem(), Halving(), Halving(), Halving())

    def block(self, stage: Stage, placed: Placed) -> nn.Module:
        """Softmax attention gets the rotation, gate and convolution that RALA brings itself."""
        layer = placed.build()
        if placed.mechanism.variant == SOFTMAX and isinstance(layer, MultiHead):
            return GatedRotaryBlock(layer, stage, self.epsilon, placed.shape)
        return ScaledBlock(layer, stage, self.epsilon)

    def block_flops(self, stage: Stage, placed: Placed) -> int:
        """4 N C H + 18 N H + 18 N C; around softmax the gate's 2 N C^2 and 50 N C."""
        tokens, channels, inner = placed.shape.tokens, stage.channels, stage.mlp_channels
        flops = mlp_flops(tokens, channels, inner)
        flops += convolution_flops(tokens, inner, inner, 3, inner)
        flops += convolution_flops(tokens, channels, channels, 3, channels)
        if placed.mechanism.variant != SOFTMAX:
            return flops
        local = convolution_flops(tokens, channels, channels, LOCAL_SIZE, channels)
        return flops + linear_flops(tokens, channels, channels) + local

    def limits(self, resolution_px: int) -> tuple[str, ...]:
        """Softmax attention turns pairs of features by row and by column."""
        if reasons := super().limits(resolution_px):
            return reasons
        return tuple(
            dict.fromkeys(
                f"{placed.where}: {reason}"
                for placed in self.attentions(resolution_px)
                if placed.mechanism.variant == SOFTMAX
                for reason in head_rotation_limits(placed.shape.head_dim)
            )
        )

    def last_norm(self) -> nn.Module:
        """What stands between the last block and the mean."""
        return Widening(self.stages[-1].channels)

    def read_channels(self) -> int:
        """Width of what is classified."""
        return LAST_CHANNELS

    def start(self, network: Pyramid) -> None:
        """Linear maps and convolutions from a normal distribution of deviation 0.02, biases 0."""
        super().start(network)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def other_flops(self, resolution_px: int, num_classes: int) -> int:
        """As in every pyramid, and the map to LAST_CHANNELS for every token."""
        tokens, channels = self.grids(resolution_px)[-1].tokens, self.stages[-1].channels
        widening = linear_flops(tokens, channels, LAST_CHANNELS)
        return super().other_flops(resolution_px, num_classes) + widening

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map the authors' names; their 1x1 convolutions become matrices."""
        block, ours = r"layers\.(\d+)\.blocks\.(\d+)", r"stages.\1.blocks.\2"
        rules = [
            (r"patch_embed\.proj\.(.+)", r"stages.0.embed.layers.\1"),
            named("proj", "norm.widen"),
            (r"norm\.(.+)", r"norm.norm.\1"),
            named("head", "classify"),
            (rf"{block}\.gamma_1", rf"{ours}.attention_factor"),
            (rf"{block}\.gamma_2", rf"{ours}.mlp_factor"),
            named(rf"{block}\.attn\.gate", rf"{ours}.gate"),
            named(rf"{block}\.attn\.lepe", rf"{ours}.local"),
        ]
        rules += [named(rf"{block}\.{theirs}", rf"{ours}.{known}") for theirs, known in _INSIDE]
        for index in range(1, len(self.stages)):
            theirs, embed = rf"layers\.{index - 1}\.downsample", f"stages.{index}.embed.layers"
            rules += [
                named(rf"{theirs}\.reduction", f"{embed}.0"),
                (rf"{theirs}\.norm\.(.+)", rf"{embed}.1.\1"),
            ]
        attentions: list[AdoptedAttention] = []
        flat = {name: _matrix(name, value) for name, value in official.items()}
        for index, stage in enumerate(self.stages):
            for number, mechanism in enumerate(stage.blocks):
                theirs = f"layers.{index}.blocks.{number}.attn."
                wrapped = mechanism.variant == SOFTMAX
                if wrapped:
                    _part_gate(flat, theirs)
                attentions.append(
                    AdoptedAttention(
                        theirs=theirs,
                        ours=f"stages.{index}.blocks.{number}.attention.",
                        spec=mechanism.spec,
                        left=("gate.", "lepe.") if wrapped else (),
                    )
                )
        return adopted(flat, rules, attentions)

    def unused_official(self, official: StateDict) -> dict[str, str]:
        """The frequencies of the rotations."""
        return {
            name: reason
            for name in official
            for end, reason in UNUSED.items()
            if name.startswith("layers.") and name.endswith(f".{end}")
        }


def _matrix(name: str, value: Tensor) -> Tensor:
    """Factors as vectors, 1x1 convolutions as matrices; other convolutions stay."""
    if name.endswith(("gamma_1", "gamma_2")):
        return value.flatten()
    if name.endswith(".weight") and value.ndim == 4 and value.shape[2:] == (1, 1):
        return value.flatten(1)
    return value


def _part_gate(official: dict[str, Tensor], theirs: str) -> None:
    """Split the map to queries, keys, values and gate below `theirs` into two."""
    for kind in ("weight", "bias"):
        fused = official.pop(f"{theirs}qkvo.{kind}", None)
        if fused is not None:
            cut = 3 * (fused.shape[0] // 4)
            official[f"{theirs}qkv.{kind}"] = fused[:cut]
            official[f"{theirs}gate.{kind}"] = fused[cut:]


_INSIDE = (
    ("pos", "place"),
    (r"norm1\.norm", "attention_norm"),
    (r"norm2\.norm", "mlp_norm"),
    (r"ffn\.fc1", "mlp.widen"),
    (r"ffn\.dwconv", "mlp.convolution"),
    (r"ffn\.fc2", "mlp.narrow"),
)


def _model(
    letter: str,
    channels: tuple[int, ...],
    heads: tuple[int, ...],
    depths: tuple[int, ...],
    *,
    parameters: float,
    macs: float,
    differences: tuple[str, ...],
) -> BackboneSpec:
    """One network: linear attention in two stages, softmax in two."""
    return BackboneSpec(
        id=f"ravlt_{letter}",
        title=f"RAVLT-{letter.upper()}",
        family="rala",
        variant="rala",
        paper=RALA,
        resolution_px=224,
        published=printed(
            "README, table of image classification", parameters=parameters, macs=macs
        ),
        differences=differences,
        design=RavltDesign(
            stages=tuple(
                Stage(
                    channels=width,
                    heads=count,
                    mlp_ratio=MLP_RATIO,
                    blocks=(Mechanism(variant="rala" if index < _LINEAR_STAGES else SOFTMAX),)
                    * depth,
                )
                for index, (width, count, depth) in enumerate(
                    zip(channels, heads, depths, strict=True)
                )
            )
        ),
    )


_LINEAR_STAGES = 2


def _counted(printed_: str, real: str) -> tuple[str, ...]:
    return (
        (
            f"The README prints {printed_} billion multiply-adds; the published code has {real} "
            "billion by fvcore, norms included."
        ),
    )


_MODELS = (
    _model(
        "t", (64, 128, 256, 512), (1, 2, 4, 8), (2, 2, 6, 2), parameters=15e6, macs=2.4e9,
        differences=_counted("2.4", "2.626"),
    ),
    _model(
        "s", (64, 128, 320, 512), (1, 2, 5, 8), (3, 5, 9, 3), parameters=26e6, macs=4.6e9,
        differences=_counted("4.6", "4.899"),
    ),
)  # fmt: skip
BACKBONES = {spec.id: spec for spec in _MODELS}
