"""What is done to training images, the same draws on every device and for every variant."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bench.recipe import Augmentation

_PADDING_SHARE = 8
"""Images are padded by an eighth of their side, as is usual for 32 pixels (4)."""


def crop_and_flip(images: Tensor, draws: Generator) -> Tensor:
    """Shift each image by up to an eighth of its side (zeros come in), and mirror every other one.

    Args:
        images: [batch, channels, height, width], any type.
        draws: generator on the CPU.

    Returns:
        Images of the same size and type.
    """
    batch, channels, height, width = images.shape
    padding = max(1, height // _PADDING_SHARE)
    shifts = torch.randint(2 * padding + 1, (2, batch, 1), generator=draws)
    mirrored = torch.rand((batch, 1), generator=draws) < 0.5
    rows = shifts[0] + torch.arange(height)
    columns = torch.arange(width).expand(batch, width)
    columns = shifts[1] + torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (padding, padding, padding, padding))
    device = images.device
    item = torch.arange(batch, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[
        item, channel, rows.to(device)[:, None, :, None], columns.to(device)[:, None, None, :]
    ]


AUGMENTATIONS: dict[Augmentation, Callable[[Tensor, Generator], Tensor] | None] = {
    "none": None,
    "crop_flip": crop_and_flip,
}
"""By name, as recipes name them."""
