"""One fixed way to train a small classifier: what accuracy tasks share.

Nothing here depends on the variant: same recipe, same data order for a seed, no early stopping, no
choice of the best epoch. The caller seeds initialisation; the data order has its own generator.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DivergedError(RuntimeError):
    """The loss stopped being a finite number; says at which step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every number of a training; the same for all variants."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    warmup: float
    """Share of the steps over which the learning rate rises; then it falls as a cosine to 0."""
    label_smoothing: float
    clip_norm: float
    """Gradients are scaled down to this norm."""


def rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Learning rate of `step` of `steps`: linear rise, then a cosine to zero."""
    rise = max(1, round(steps * recipe.warmup))
    if step < rise:
        return recipe.learning_rate * (step + 1) / rise
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How a trained classifier answers a test set."""

    accuracy: float
    """Share of the images whose largest logit is their label's, 0..1."""
    loss: float
    """Mean cross entropy without label smoothing, natural logarithm."""


def train(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, seed: int) -> int:
    """Train in place and return the number of images seen.

    Args:
        model: images -> logits.
        images: [items, channels, height, width], on the model's device.
        labels: [items], on the model's device.
        recipe: every number.
        seed: of the data order.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    order = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay},
         {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate, fused=True,
    )  # fmt: skip
    per_epoch = len(images) // recipe.batch
    steps = recipe.epochs * per_epoch
    model.train()
    epoch_loss = torch.zeros((), device=images.device)
    for epoch in range(recipe.epochs):
        epoch_loss.zero_()
        shuffled = torch.randperm(len(images), generator=order).to(images.device)
        for index in range(per_epoch):
            chosen = shuffled[index * recipe.batch : (index + 1) * recipe.batch]
            for group in optimizer.param_groups:
                group["lr"] = rate_at(epoch * per_epoch + index, steps, recipe)
            loss = F.cross_entropy(
                model(images[chosen]), labels[chosen], label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            epoch_loss += loss.detach()
        if not torch.isfinite(epoch_loss):
            raise DivergedError(
                f"the loss is not finite in epoch {epoch + 1} of {recipe.epochs} "
                f"(steps {epoch * per_epoch + 1} to {(epoch + 1) * per_epoch})"
            )
    return steps * recipe.batch


@torch.no_grad()
def scores(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> Scores:
    """Evaluate on images [items, channels, height, width] with labels [items]."""
    model.eval()
    logits = torch.cat([model(some) for some in images.split(batch)])
    correct = int((logits.argmax(1) == labels).sum())
    return Scores(
        accuracy=correct / len(labels), loss=float(F.cross_entropy(logits.double(), labels))
    )
