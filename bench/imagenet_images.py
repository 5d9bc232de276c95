"""ImageNet-style folders as batches: decoding, cropping, repeated augmentation, mixing.

Crops, mirroring, Mixup and CutMix are here; RandAugment and random erasing are kornia's, which is
needed for training only (`pip install kornia`).
"""

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Generator, Tensor
from torch.utils.data import Dataset, Sampler

from bench.dataset import WrongDataError
from bench.datasets.image_folder import listed

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels of ImageNet in 0..1."""
EVALUATION_CROP = 0.875
"""Side of the central crop / shorter side after scaling."""
_CROP_AREA, _CROP_SHAPE = (0.08, 1.0), (3 / 4, 4 / 3)
_CROP_TRIES = 10


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Images of one part: (bytes [3, side, side], label). Training images are cropped at random."""

    def __init__(self, root: Path, part: Literal["train", "test"], side: int) -> None:
        self.files = listed(root, part)
        self.part = part
        self.side = side

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.files.paths[index]
        try:
            with Image.open(path) as image:
                colours = image.convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise WrongDataError(f"{path} cannot be decoded ({error}): replace it") from error
        box = _random_box(colours) if self.part == "train" else _central_box(colours)
        size = (self.side, self.side)
        cropped = colours.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
        pixels = torch.from_numpy(np.asarray(cropped).copy()).permute(2, 0, 1)
        if self.part == "train" and bool(torch.rand(()) < 0.5):
            pixels = pixels.flip(2)
        return pixels, self.files.labels[index]


def _random_box(image: Image.Image) -> tuple[float, float, float, float]:
    """A box of 8 to 100 % of the area and a ratio of 3:4 to 4:3, as Inception and DeiT crop."""
    width, height = image.size
    for _ in range(_CROP_TRIES):
        draws = torch.rand(4).tolist()
        area = width * height * (_CROP_AREA[0] + draws[0] * (_CROP_AREA[1] - _CROP_AREA[0]))
        low, high = map(math.log, _CROP_SHAPE)
        ratio = math.exp(low + draws[1] * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = draws[2] * (width - w), draws[3] * (height - h)
            return left, top, left + w, top + h
    return _square(image, min(width, height))


def _central_box(image: Image.Image) -> tuple[float, float, float, float]:
    return _square(image, EVALUATION_CROP * min(image.size))


def _square(image: Image.Image, side: float) -> tuple[float, float, float, float]:
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


class RepeatedSampler(Sampler[int]):
    """Every image `repeats` times in an epoch, its copies on different processes where possible.

    An epoch has as many draws as there are images, so it covers 1 / repeats of them (Hoffer et al.,
    2020, as DeiT uses it). With `repeats` 1 this is an ordinary distributed sampler.
    """

    def __init__(self, data: Sized, *, repeats: int, rank: int, processes: int, seed: int) -> None:
        self.data = data
        self.repeats = repeats
        self.rank = rank
        self.processes = processes
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.data) // self.processes

    def __iter__(self) -> Iterator[int]:
        draws = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.data), generator=draws).repeat_interleave(self.repeats)
        mine = order[self.rank :: self.processes][: len(self)]
        return iter(mine.tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) of a batch with its reverse."""

    mixup: float = 0.8
    """Parameter of the Beta distribution of the share; 0: never."""
    cutmix: float = 1.0
    cutmix_share: float = 0.5
    """Probability that a batch is cut instead of blended."""
    smoothing: float = 0.1
    classes: int

    def __call__(self, images: Tensor, labels: Tensor, draws: Generator) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: [batch, 3, side, side], floats.
            labels: [batch].
            draws: generator on the CPU.

        Returns:
            Images, and targets [batch, classes] that sum to 1 (with label smoothing).
        """
        cut = bool(torch.rand((), generator=draws) < self.cutmix_share)
        strength = self.cutmix if cut else self.mixup
        share = _beta(strength, draws) if strength > 0 else 1.0
        if cut:
            images, share = _cut(images, share, draws)
        else:
            images = images * share + images.flip(0) * (1 - share)
        off = self.smoothing / self.classes
        hot = F.one_hot(labels, self.classes).float() * (1 - self.smoothing) + off
        return images, hot * share + hot.flip(0) * (1 - share)


def _beta(strength: float, draws: Generator) -> float:
    """One draw from Beta(strength, strength), by numpy seeded from `draws`."""
    seed = int(torch.randint(2**31, (), generator=draws))
    return float(np.random.default_rng(seed).beta(strength, strength))


def _cut(images: Tensor, share: float, draws: Generator) -> tuple[Tensor, float]:
    """Put a box of the reversed batch in; return the share of the area that stays."""
    height, width = images.shape[-2:]
    size = math.sqrt(1 - share)
    row, column = (float(torch.rand((), generator=draws)) * n for n in (height, width))
    top, bottom = (int(max(0, min(height, row + s * size * height / 2))) for s in (-1, 1))
    left, right = (int(max(0, min(width, column + s * size * width / 2))) for s in (-1, 1))
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
