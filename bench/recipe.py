"""Every number of a training, and the learning rate that follows from them. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Literal

Augmentation = Literal["none", "crop_flip"]
"""What `bench.augmentation` can do."""
LOOP = 1
"""Version of the loop in `bench.training`: raised when it gives other numbers for one recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every number of a training; the same for all variants."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    """Of parameters with two axes or more; others (biases, norms) have none."""
    warmup: float
    """Share of the steps over which the learning rate rises; then it falls as a cosine to 0."""
    label_smoothing: float
    clip_norm: float
    """Gradients are scaled down to this norm."""
    precision: Literal["float32", "mixed"] = "float32"
    """`mixed`: products in bfloat16 on CUDA devices that have it, elsewhere float32."""
    augmentation: Augmentation = "none"
    """What is done to training images."""
    loop: int = LOOP
    """Version of the training loop, so that it is part of the recipe's digest."""


def rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Learning rate of `step` of `steps`: linear rise, then a cosine to zero."""
    rise = max(1, round(steps * recipe.warmup))
    if step < rise:
        return recipe.learning_rate * (step + 1) / rise
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))
