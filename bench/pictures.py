"""A folder of pictures in the layout of ImageNet, and each picture as the authors prepare it.

`FOLDER/<class>/<picture>`; classes are counted in the order of their names, as in ImageNet's
validation set sorted by WordNet id, or in the order of a list of names. Resizing and cropping
repeat torchvision's arithmetic to the pixel, with Pillow alone.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from attention_impls.backbone import ImagePreparation

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
"""Decoders that may be tried: the rest of Pillow's are not given a chance."""
MOST_PIXELS = 1 << 26
"""Of a resized picture: a line of a few pixels' width would otherwise fill the memory."""
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class PictureError(ValueError):
    """A folder or a picture that cannot be used; names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What there is to look at, in the order in which it is looked at."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Digest of output, folder, name and size of every file: another list, another digest."""
        found = hashlib.sha256()
        for path, label in zip(self.paths, self.labels, strict=True):
            place = f"{path.parent.name}/{path.name}"
            found.update(f"{label} {place}/{path.stat().st_size}\n".encode())
        return found.hexdigest()


def listed(folder: Path, num_classes: int, names: tuple[str, ...] | None = None) -> Pictures:
    """List the pictures of a folder with `num_classes` classes; files starting with a dot are not.

    Args:
        folder: holds one folder a class.
        num_classes: outputs of the network.
        names: the class of each output; None: the folders in the order of their names.

    Raises:
        PictureError: a class without folder or pictures, a folder without class, another file.
    """
    if not folder.is_dir():
        raise PictureError(f"{folder}: no such folder; it must hold one folder a class")
    visible = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for path in visible:
        if not path.is_dir():
            raise PictureError(f"{path}: is not a folder; {folder} must hold one folder a class")
    found = tuple(path.name for path in visible)
    if names is None and len(found) != num_classes:
        raise PictureError(
            f"{folder}: {len(found)} classes, the network has {num_classes}; give the class of "
            "each output with --classes FILE, one name of a folder a line"
        )
    if names is not None and len(names) != num_classes:
        raise PictureError(f"{len(names)} names of classes, the network has {num_classes}")
    if names is not None and len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PictureError(f"class {twice!r} is named more than once")
    place = {name: label for label, name in enumerate(names or found)}
    paths: list[Path] = []
    labels: list[int] = []
    for path in visible:
        if path.name not in place:
            raise PictureError(f"{path}: is not one of the {len(place)} named classes")
        inside = _in_class(path)
        paths += inside
        labels += [place[path.name]] * len(inside)
    return Pictures(paths=tuple(paths), labels=tuple(labels), classes=tuple(names or found))


def _in_class(folder: Path) -> list[Path]:
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    if not inside:
        raise PictureError(f"{folder}: empty class folder; fill it or remove it")
    for path in inside:
        if not path.is_file() or path.suffix.lower() not in ENDINGS:
            raise PictureError(f"{path}: is not a picture ({', '.join(ENDINGS)}); move it away")
    return inside


def prepared(path: Path, preparation: ImagePreparation, resolution_px: int) -> Tensor:
    """Return one picture as [3, side, side], float32, normalised.

    Raises:
        PictureError: it cannot be decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            image = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path}: cannot be decoded as a picture: {error}") from error
    width, height = sizes(image.size, preparation, resolution_px)
    if width * height > MOST_PIXELS:
        raise PictureError(
            f"{path}: is {image.width} x {image.height} px and would be resized to {width} x "
            f"{height}, more than {MOST_PIXELS:,} pixels; move it away"
        )
    resized = image.resize((width, height), _FILTERS[preparation.interpolation])
    left = round((resized.width - resolution_px) / 2)
    top = round((resized.height - resolution_px) / 2)
    cropped = resized.crop((left, top, left + resolution_px, top + resolution_px))
    pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float() / 255
    mean, deviation = (
        torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.deviation)
    )
    return (pixels - mean) / deviation


def sizes(
    size: tuple[int, int], preparation: ImagePreparation, resolution_px: int
) -> tuple[int, int]:
    """Width and height to which a picture is resized before the centre is cropped."""
    side = int(resolution_px / preparation.crop_fraction)
    if preparation.resize == "both_sides":
        return side, side
    width, height = size
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a picture that could not be read; another process sends it home."""

    reason: str


class Prepared(Dataset[tuple[Tensor, int] | Unreadable]):
    """The pictures from `first` on, prepared one by one as they are asked for."""

    def __init__(
        self, pictures: Pictures, preparation: ImagePreparation, resolution_px: int, first: int
    ) -> None:
        self.pictures = pictures
        self.preparation = preparation
        self.resolution_px = resolution_px
        self.first = first

    def __len__(self) -> int:
        return len(self.pictures.paths) - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, int] | Unreadable:
        place = self.first + index
        try:
            image = prepared(self.pictures.paths[place], self.preparation, self.resolution_px)
        except PictureError as error:
            return Unreadable(str(error))
        return image, self.pictures.labels[place]


def together(items: list[tuple[Tensor, int] | Unreadable]) -> tuple[Tensor, Tensor] | Unreadable:
    """One batch: images [batch, 3, side, side] and labels [batch]; the first failure instead."""
    images: list[Tensor] = []
    labels: list[int] = []
    for item in items:
        if isinstance(item, Unreadable):
            return item
        images.append(item[0])
        labels.append(item[1])
    return torch.stack(images), torch.tensor(labels)
