"""Fashion-MNIST: 70,000 grey images of 28 x 28 pixels, ten classes; 10,000 of them test.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", 2017, https://arxiv.org/abs/1708.07747. Licence: MIT. The digests are of the unpacked
files, because packages compress them anew.
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.dataset import Data, Split, WrongDataError
from bench.download import Remote, Source, checked, find

LICENCE = "MIT"
CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
MEAN, DEVIATION = 0.2860, 0.3530
"""Of the training pixels in 0..1."""
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Of each file, unpacked."""
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_DOWNLOADS = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26_421_880,
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29_515,
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4_422_102,
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5_148,
    ),
}  # fmt: skip
"""sha256 and size of each file as the authors publish it."""
SOURCE = Source(
    name="fashion-mnist",
    title="Fashion-MNIST",
    files=tuple(f"{name}.gz" for name in SHA256),
    remotes=tuple(
        Remote(url=f"{_URL}/{name}", sha256=sha256, size_bytes=size)
        for name, (sha256, size) in _DOWNLOADS.items()
    ),
    package_folder=Path("/usr/share/datasets/fashion-mnist"),
    otherwise="on Debian and Ubuntu `apt-get install dataset-fashion-mnist`",
)
_HEADERS = {"images": 16, "labels": 8}
"""Bytes before the first value of an IDX file."""


def read() -> Data:
    """Return images [items, 1, 28, 28], bytes, and labels [items].

    Raises:
        MissingDataError: not on this machine.
        WrongDataError: a file is damaged.
    """
    folder = find(SOURCE)
    return Data(train=_split(folder, "train"), test=_split(folder, "t10k"))


def _split(folder: Path, part: str) -> Split:
    pixels = _values(folder / f"{part}-images-idx3-ubyte.gz", _HEADERS["images"])
    labels = _values(folder / f"{part}-labels-idx1-ubyte.gz", _HEADERS["labels"])
    return Split(pixels.view(-1, 1, 28, 28), labels.long())


def _values(path: Path, header: int) -> Tensor:
    packed = path.read_bytes()
    try:
        contents = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise WrongDataError(
            f"{path} is damaged and cannot be unpacked ({error}): sha256 of the packed file is "
            f"{hashlib.sha256(packed).hexdigest()}, what it holds must have {SHA256[path.stem]}; "
            "delete it and get it again"
        ) from error
    contents = checked(path, SHA256[path.stem], contents)
    return torch.from_numpy(np.frombuffer(contents, np.uint8, offset=header).copy())
