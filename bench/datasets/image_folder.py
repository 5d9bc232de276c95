"""Any folder of images in the layout of ImageNet: `<part>/<class>/<image>`.

The classes are the names of the folders, sorted; the images of a class are in the order of their
names. Files are decoded by Pillow; a JPEG may decode to other pixels with another version of its
library, so a data set is identified by its files and by the digest of the tensors in each row.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from bench.dataset import Data, Split, WrongDataError
from bench.task import MissingDataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp")
TEST_FOLDERS = ("test", "val")
"""Names of the folder with the test images, the first that is there."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The images of one part, not decoded yet."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def listed(root: Path, part: Literal["train", "test"]) -> Listed:
    """List the images below `root`.

    Raises:
        MissingDataError: no such folder, or no image in it.
        WrongDataError: the test part has other classes than the training part.
    """
    names = ("train",) if part == "train" else TEST_FOLDERS
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise MissingDataError(
            f"{root} has no folder {' or '.join(names)}; it must hold {names[0]}/<class>/<image>"
        )
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise MissingDataError(f"{folder} holds no image: needs <class>/<image> with {SUFFIXES}")
    if part == "test" and classes != listed(root, "train").classes:
        raise WrongDataError(f"{folder} has other classes than {root / 'train'}")
    return Listed(tuple(paths), tuple(labels), classes)


def files_sha256(root: Path) -> str:
    """Digest of the names and contents of every image of both parts."""
    found = hashlib.sha256()
    for part in ("train", "test"):
        for path in listed(root, part).paths:
            found.update(f"{part}/{path.parent.name}/{path.name}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def read(root: Path, resolution_px: int) -> Data:
    """Decode every image into memory, cut to a square and scaled to `resolution_px`.

    Returns:
        Images [items, 3, resolution_px, resolution_px], bytes, and labels [items].

    Raises:
        MissingDataError: no such folder, or no image in it.
        WrongDataError: an image cannot be decoded; names it.
    """
    return Data(
        train=_split(listed(root, "train"), resolution_px),
        test=_split(listed(root, "test"), resolution_px),
    )


def decoded(path: Path, resolution_px: int) -> np.ndarray:
    """Return one image as [resolution_px, resolution_px, 3] bytes: the central square, scaled.

    Raises:
        WrongDataError: it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            colours = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise WrongDataError(f"{path} cannot be decoded ({error}): replace it") from error
    side = min(colours.size)
    if colours.size != (resolution_px, resolution_px):
        left, top = (colours.width - side) // 2, (colours.height - side) // 2
        colours = colours.resize(
            (resolution_px, resolution_px),
            Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
        )
    return np.asarray(colours)


def _split(of: Listed, resolution_px: int) -> Split:
    images = torch.empty(len(of.paths), 3, resolution_px, resolution_px, dtype=torch.uint8)
    for place, path in enumerate(of.paths):
        images[place] = torch.from_numpy(decoded(path, resolution_px).copy()).permute(2, 0, 1)
    return Split(images, torch.tensor(of.labels))
