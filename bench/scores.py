"""How well a trained classifier answers a test set."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bench.dataset import IGNORED, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The answers to a test set, judged."""

    accuracy: float
    """Share of the labels that have the largest logit, 0..1."""
    loss: float
    """Mean cross entropy without label smoothing, natural logarithm."""


@torch.no_grad()
def scores(model: nn.Module, split: Split, batch: int) -> Scores:
    """Evaluate in evaluation mode and float32.

    Args:
        model: inputs -> logits, on its device.
        split: examples, on any device.
        batch: examples at once; plays no part in the result.

    Returns:
        Accuracy and loss over all labels that count.
    """
    model.eval()
    device = next(model.parameters()).device
    correct, loss = 0, 0.0
    for inputs, labels in zip(split.inputs.split(batch), split.labels.split(batch), strict=True):
        labels = labels.to(device).flatten()  # noqa: PLW2901 - the same labels elsewhere
        logits = model(inputs.to(device)).flatten(0, -2)
        correct += int((logits.argmax(-1) == labels).sum())
        loss += float(
            F.cross_entropy(logits.double(), labels, ignore_index=IGNORED, reduction="sum")
        )
    return Scores(accuracy=correct / split.counted, loss=loss / split.counted)
