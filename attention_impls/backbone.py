"""What a whole model must declare about itself: sizes, attention of every block, source, cost.

A family file under `backbones/` describes its networks as a frozen `Design`; a `BackboneSpec` puts
a name, a paper and published numbers on one of them. Attention is data of the design, so any
variant can take the place of the published one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from attention_impls.adoption import fitted, require_names
from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """The attention of one block: a variant and its options."""

    variant: str
    options: Any = None
    """None: the variant's defaults."""

    @property
    def spec(self) -> AttentionSpec:
        """The variant's spec."""
        return load(self.variant)

    def changed(self, variant: str, changes: Mapping[str, Any]) -> "Mechanism":
        """Return `variant` with `changes` to these options, or to its defaults if it is another."""
        base: Any = load(variant).options
        if variant == self.variant and self.options is not None:
            base = self.options
        return Mechanism(variant=variant, options=replace(base, **changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The attention of one block at one resolution."""

    where: str
    """Which block, for people."""
    mechanism: Mechanism
    shape: AttentionShape

    def build(self) -> nn.Module:
        """Build the layer."""
        return self.mechanism.spec.build(self.shape, self.mechanism.options)

    def flops(self) -> int:
        """FLOPs of one forward pass of the layer."""
        return self.mechanism.spec.flops(self.shape, self.mechanism.options)

    def unsupported(self) -> tuple[str, ...]:
        """Why the variant cannot stand here."""
        reasons = self.mechanism.spec.unsupported(self.shape, self.mechanism.options)
        return tuple(f"{self.where}: {self.mechanism.variant}: {reason}" for reason in reasons)


@runtime_checkable
class Design(Protocol):
    """Sizes of a network and the attention of its blocks, independent of resolution and classes."""

    def build(self, num_classes: int, resolution_px: int) -> nn.Module:
        """Build the network: images [batch, 3, side, side] to logits [batch, num_classes]."""
        ...

    def attentions(self, resolution_px: int, batch: int = 1) -> tuple[Placed, ...]:
        """Every attention in the order of the forward pass."""
        ...

    def other_flops(self, resolution_px: int, num_classes: int) -> int:
        """FLOPs of one image outside the attention layers."""
        ...

    def limits(self, resolution_px: int) -> tuple[str, ...]:
        """Why the network cannot have this resolution, beyond what its attentions say."""
        ...

    def thinned(self) -> "Design":
        """Return the design with one block of each kind in every stage: enough to count by."""
        ...

    def with_variant(self, old: str, new: str, changes: Mapping[str, Any]) -> "Design":
        """Return the design with `new` wherever `old` stands."""
        ...

    def adopt_official(self, official: StateDict) -> dict[str, Tensor]:
        """Map the authors' parameter names onto ours. Raises KeyError for names it cannot place."""
        ...

    def unused_official(self, official: StateDict) -> dict[str, str]:
        """Published entries that carry nothing learned, each with the reason why it is left."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePreparation:
    """How the authors turn a picture into the input of their model, at evaluation."""

    resize: Literal["shorter_side", "both_sides"] = "shorter_side"
    """`both_sides` squeezes the picture into a square before the centre is cropped."""
    crop_fraction: float = 0.875
    """Side of the centre crop / side after resizing: 0.875 is 224 of 256."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION


SQUEEZED = ImagePreparation(resize="both_sides")
"""As in the code that InLine, FLatten and Agent attention share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNumbers:
    """What the authors print about a model; None: they do not."""

    parameters: float | None = None
    macs: float | None = None
    """Multiply-adds of one image: what the papers call FLOPs."""
    imagenet1k_top1: float | None = None
    """Fraction 0..1."""
    source: str | None = None


def printed(
    source: str,
    *,
    parameters: float | None = None,
    macs: float | None = None,
    top1: float | None = None,
) -> PublishedNumbers:
    """Return the numbers that `source` prints."""
    return PublishedNumbers(parameters=parameters, macs=macs, imagenet1k_top1=top1, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """One network of a paper, by name."""

    id: str
    """Identifier: the name of the authors' configuration in lower case."""
    title: str
    family: str
    """File under `backbones/`."""
    variant: str
    """The mechanism that the network was published for."""
    paper: Paper
    resolution_px: int
    """Side of the square input at which the numbers were published."""
    preparation: ImagePreparation = ImagePreparation()
    published: PublishedNumbers = PublishedNumbers()
    differences: tuple[str, ...] = ()
    """Sentences: where paper, published code and this disagree."""
    design: Design

    def unsupported(self, resolution_px: int | None = None) -> tuple[str, ...]:
        """Return every reason why the network cannot be built for `resolution_px`."""
        side = self._side(resolution_px)
        if reasons := self.design.limits(side):
            return reasons
        different = {(p.mechanism, p.shape): p for p in self.design.attentions(side)}
        return tuple(r for placed in different.values() for r in placed.unsupported())

    def build(self, num_classes: int = 1000, resolution_px: int | None = None) -> nn.Module:
        """Build the network for square images of `resolution_px` (None: the published side).

        Raises:
            UnsupportedShape: with every reason.
            ValueError: `num_classes` is below 1.
        """
        if num_classes < 1:
            raise ValueError(f"{self.id}: num_classes is {num_classes}, must be >= 1")
        side = self._side(resolution_px)
        if reasons := self.unsupported(side):
            raise UnsupportedShape(f"{self.id} at {side} px: " + "; ".join(reasons))
        return self.design.build(num_classes, side)

    def flops(
        self, resolution_px: int | None = None, *, batch: int = 1, num_classes: int = 1000
    ) -> int:
        """FLOPs of one forward pass (one multiply-add = 2, contractions only)."""
        side = self._side(resolution_px)
        others = batch * self.design.other_flops(side, num_classes)
        return others + sum(placed.flops() for placed in self.design.attentions(side, batch))

    def parameters(self, resolution_px: int | None = None, *, num_classes: int = 1000) -> int:
        """Number of learned numbers; nothing is allocated, and equal blocks are built once."""
        side = self._side(resolution_px)
        thin = self.design.thinned()
        kinds = Counter((p.mechanism, p.shape) for p in self.design.attentions(side))
        with torch.device("meta"):
            network = thin.build(num_classes, side)
        blocks = [module for module in network.modules() if hasattr(module, "attention_norm")]
        repeated = sum(
            (kinds[placed.mechanism, placed.shape] - 1) * _numbers(block)
            for placed, block in zip(thin.attentions(side), blocks, strict=True)
        )
        return _numbers(network) + repeated

    def with_variant(
        self, variant: str, changes: Mapping[str, Any] | None = None
    ) -> "BackboneSpec":
        """Return the same network with `variant` in the place of the published mechanism.

        Blocks that the authors leave to another mechanism keep it.

        Args:
            variant: name of a variant.
            changes: options that differ from those the network has for this variant (its published
                ones, stage by stage), or from the variant's defaults.
        """
        design = self.design.with_variant(self.variant, variant, changes or {})
        return replace(self, variant=variant, design=design)

    def adopt_official(self, state_dict: StateDict) -> dict[str, Tensor]:
        """Map the authors' published state dict onto ours, strictly.

        Raises:
            KeyError: names that this network does not have, or lacks; every entry is used or is
                named by `unused_official`.
        """
        unused = self.design.unused_official(state_dict)
        official = {name: value for name, value in state_dict.items() if name not in unused}
        try:
            adopted = self.design.adopt_official(official)
        except KeyError as error:
            raise KeyError(f"{self.id}: {error.args[0]}") from error
        require_names(self.id, adopted, set(self._empty(1).state_dict()))
        return adopted

    def unused_official(self, state_dict: StateDict) -> dict[str, str]:
        """Entries of a published state dict that are not needed, each with the reason."""
        return self.design.unused_official(state_dict)

    def fitted(
        self, state_dict: StateDict, *, num_classes: int, resolution_px: int | None = None
    ) -> dict[str, Tensor]:
        """Return our `state_dict` for a network built for `resolution_px`.

        Position tables of another size are interpolated; anything else of another shape is refused.

        Raises:
            ValueError: naming parameter, shape found and shape needed.
        """
        network = self._empty(num_classes, resolution_px)
        return fitted(state_dict, {k: tuple(v.shape) for k, v in network.state_dict().items()})

    def _empty(self, num_classes: int, resolution_px: int | None = None) -> nn.Module:
        with torch.device("meta"):
            return self.build(num_classes, resolution_px)

    def _side(self, resolution_px: int | None) -> int:
        side = self.resolution_px if resolution_px is None else resolution_px
        if side < 1:
            raise ValueError(f"{self.id}: resolution_px is {side}, must be >= 1")
        return side


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
