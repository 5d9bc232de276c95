"""Whole networks as calls: what a batch of images is to the rest of the benchmark.

A picture of R x R px is a grid of R x R pixels with three channels, so that a call of a network has
the same kind of shape as a call of a layer: `x` is [batch, R * R, 3]. Memory, rotation of inputs,
smaller sizes for the comparison with float64 and everything that is timed then work unchanged.
"""

import copy
from typing import cast

from torch import Tensor, nn

from attention_impls.backbone import BackboneSpec, Placed
from attention_impls.blocks import TakesAttentionApart
from attention_impls.multihead import MultiHead
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import Backend

CLASSES = 1000
"""Outputs of every measured network, as on ImageNet-1K."""
COLOURS = 3


def image_shape(resolution_px: int, batch: int) -> AttentionShape:
    """The shape of one call of a network."""
    return AttentionShape(
        batch=batch, grid=Grid(resolution_px, resolution_px), heads=1, head_dim=COLOURS
    )


class Network(nn.Module):
    """A backbone that takes its images as tokens of a grid of pixels."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Return logits [batch, classes]; the numbers of `x` are taken as [batch, 3, R, R]."""
        return self.backbone(x.reshape(-1, COLOURS, grid.height, grid.width))


def build(spec: BackboneSpec, shape: AttentionShape) -> Network:
    """Build the network for images of this shape."""
    return Network(spec.build(CLASSES, shape.grid.width))


def placed(spec: BackboneSpec, shape: AttentionShape) -> tuple[Placed, ...]:
    """The attentions of the variant that the network is measured for."""
    found = spec.design.attentions(shape.grid.width, shape.batch)
    return tuple(one for one in found if one.mechanism.variant == spec.variant)


def refusals(spec: BackboneSpec, shape: AttentionShape) -> tuple[str, ...]:
    """Why the network cannot be measured at this shape."""
    if shape.grid.height != shape.grid.width:
        return (f"images are {shape.grid} px, must be square",)
    return spec.unsupported(shape.grid.width)


def with_backend(network: Network, spec: BackboneSpec, backend: Backend) -> nn.Module:
    """Return the network with each attention of the variant executed by `backend`.

    The parameters are the very same objects; the network itself is not changed.

    Raises:
        ValueError: the attention of this family is woven into its blocks.
    """
    if backend.name == "compile":
        return backend.adopt(network)
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, shared)
    blocks = [module for module in twin.modules() if hasattr(module, "attention_norm")]
    mechanisms = [one.mechanism for one in spec.design.attentions(spec.resolution_px)]
    for block, mechanism in zip(blocks, mechanisms, strict=True):
        if mechanism.variant != spec.variant:
            continue
        adopted = backend.adopt(cast("nn.Module", block.attention))
        if isinstance(block, TakesAttentionApart) and not isinstance(adopted, MultiHead):
            raise ValueError(
                f"backend {backend.name} executes whole layers; the blocks of {spec.id} take "
                "theirs apart"
            )
        setattr(block, "attention", adopted)  # noqa: B010 - the two kinds of blocks differ in type
    return twin
