"""Image classification tasks: a vision transformer on images kept as bytes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attention_impls.vit import VisionTransformer, VisionTransformerSize
from bench.dataset import Data
from bench.recipe import Recipe
from bench.task import Assignment, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    """Mean and standard deviation of the training pixels in 0..1: one number, or a channel."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Pixels(nn.Module):
    """Bytes -> numbers with mean 0 and deviation 1."""

    def __init__(self, colours: Colours) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(colours.mean).view(-1, 1, 1) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(colours.deviation).view(-1, 1, 1) * 255))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise [batch, channels, height, width]."""
        shift, scale = self.get_buffer("shift"), self.get_buffer("scale")
        return (images.to(scale.dtype) - shift) * scale


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTask:
    """What one image task is made of."""

    file: str
    """Name of its file; the task's name is this and the number of tokens."""
    title: str
    help: str
    """What the data are; network and recipe are added."""
    read: Callable[[], Data]
    size: VisionTransformerSize
    recipe: Recipe
    colours: Colours
    test_items: int
    revision: int = 1

    def task(self) -> Task:
        """Return the task."""
        size, recipe = self.size, self.recipe
        name = f"{self.file}_{size.grid.tokens}"
        return Task(
            name=name,
            title=f"{self.title}, {size.grid.tokens} tokens",
            help=(
                f"{self.help} A vision transformer of {size.depth} blocks and "
                f"{size.heads * size.head_dim} channels with {size.grid.tokens} tokens of "
                f"{size.patch_px} x {size.patch_px} pixels; {recipe.epochs} epochs of AdamW, "
                "nothing tuned per variant."
            ),
            revision=self.revision,
            chance=1 / size.classes,
            test_items=self.test_items,
            tokens=size.grid.tokens,
            network=self.network,
            data=self.read,
            training=recipe,
            recipe={"network": size, "colours": self.colours},
        )

    def network(self, assignment: Assignment) -> nn.Module:
        """Build the network from the current random state."""
        return nn.Sequential(
            Pixels(self.colours),
            VisionTransformer(assignment.spec, self.size, assignment.options),
        )
