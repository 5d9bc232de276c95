"""Plain vision transformers without class token: every variant fits.

Patches become tokens, learned positions that start as sines are added, blocks of x +
attention(norm(x)) and x + mlp(norm(x)), the mean of the normalised tokens is classified. `vit_tiny`
has the sizes of DeiT-T, `vit_micro` is for images of 28 to 32 px that a CPU can train on.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929,
without the class token. No published checkpoint exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from attention_impls.backbone import BackboneSpec, Mechanism, Placed
from attention_impls.blocks import linear_flops, mlp_flops
from attention_impls.papers import VIT
from attention_impls.spec import StateDict
from attention_impls.vit import VisionTransformer, VisionTransformerSize


@dataclass(frozen=True, slots=True, kw_only=True)
class VitDesign:
    """Sizes of one network of this family."""

    size: VisionTransformerSize
    """Sizes at the published resolution, which is replaced by the one asked for."""
    mechanism: Mechanism

    def at(self, resolution_px: int, num_classes: int = 1) -> VisionTransformerSize:
        """Sizes at another resolution."""
        return replace(self.size, resolution_px=resolution_px, classes=num_classes)

    def build(self, num_classes: int, resolution_px: int) -> nn.Module:
        """Build the network."""
        return VisionTransformer(
            self.mechanism.spec, self.at(resolution_px, num_classes), self.mechanism.options
        )

    def attentions(self, resolution_px: int, batch: int = 1) -> tuple[Placed, ...]:
        """Every attention, all of one shape."""
        shape = self.at(resolution_px).shape(batch)
        return tuple(
            Placed(where=f"block {index}", mechanism=self.mechanism, shape=shape)
            for index in range(1, self.size.depth + 1)
        )

    def other_flops(self, resolution_px: int, num_classes: int) -> int:
        """Patches 2 N C 3 p^2, blocks 4 N C H each, classifier 2 C classes."""
        size = self.at(resolution_px)
        tokens, channels = size.grid.tokens, size.heads * size.head_dim
        blocks = size.depth * mlp_flops(tokens, channels, int(channels * size.mlp_ratio))
        embed = linear_flops(tokens, size.image_channels * size.patch_px**2, channels)
        return embed + blocks + linear_flops(1, channels, num_classes)

    def limits(self, resolution_px: int) -> tuple[str, ...]:
        """An image holds at least one patch."""
        if resolution_px < self.size.patch_px:
            return (
                f"resolution is {resolution_px} px, must be >= {self.size.patch_px} px (one patch)",
            )
        return ()

    def thinned(self) -> "VitDesign":
        """Return the design with one block."""
        return replace(self, size=replace(self.size, depth=1))

    def with_variant(self, old: str, new: str, changes: Mapping[str, Any]) -> "VitDesign":
        """Return the design with `new` in every block."""
        if self.mechanism.variant != old:
            return self
        return replace(self, mechanism=self.mechanism.changed(new, changes))

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:  # noqa: ARG002
        """Raise KeyError: nobody published a checkpoint of these networks."""
        raise KeyError("no checkpoint of this network was published")

    def unused_official(self, official: StateDict) -> dict[str, str]:  # noqa: ARG002
        """Nothing is published, so nothing is left."""
        return {}


def _model(id_: str, title: str, size: VisionTransformerSize) -> BackboneSpec:
    return BackboneSpec(
        id=id_,
        title=title,
        family="vit",
        variant="softmax",
        paper=VIT,
        resolution_px=size.resolution_px,
        design=VitDesign(size=size, mechanism=Mechanism(variant="softmax")),
    )


_MODELS = (
    _model(
        "vit_micro",
        "ViT-Micro",
        VisionTransformerSize(
            resolution_px=32, patch_px=4, image_channels=3, classes=10, depth=4, heads=2,
            head_dim=32, mlp_ratio=2.0,
        ),
    ),
    _model(
        "vit_tiny",
        "ViT-Tiny",
        VisionTransformerSize(
            resolution_px=224, patch_px=16, image_channels=3, classes=1000, depth=12, heads=3,
            head_dim=64, mlp_ratio=4.0,
        ),
    ),
)  # fmt: skip
BACKBONES = {spec.id: spec for spec in _MODELS}
