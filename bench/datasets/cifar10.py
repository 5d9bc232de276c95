"""CIFAR-10: 60,000 colour images of 32 x 32 pixels, ten classes; 10,000 of them test.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html, in the binary form: a byte for the label, then 3,072
for the planes of red, green and blue. No licence is stated; the files stay on the user's machine.
"""

import numpy as np
import torch

from bench.dataset import Data, Split
from bench.download import Remote, Source, checked, find

LICENCE = "none stated"
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the training pixels in 0..1, for red, green and blue."""
SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
SOURCE = Source(
    name="cifar-10-batches-bin",
    title="CIFAR-10 (binary form)",
    files=tuple(SHA256),
    remotes=(
        Remote(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            size_bytes=170_052_171,
        ),
    ),
    otherwise="unpack cifar-10-binary.tar.gz there",
)


def read() -> Data:
    """Return images [items, 3, 32, 32], bytes, and labels [items].

    Raises:
        MissingDataError: not on this machine.
        WrongDataError: a file is damaged.
    """
    folder = find(SOURCE)
    contents = {name: checked(folder / name, sha256) for name, sha256 in SHA256.items()}
    train = b"".join(data for name, data in contents.items() if name.startswith("data_"))
    return Data(train=records(train, 1), test=records(contents["test_batch.bin"], 1))


def records(contents: bytes, labels: int) -> Split:
    """Take images and labels apart.

    Args:
        contents: records one after the other.
        labels: label bytes before the pixels of each record; the last of them counts.
    """
    table = np.frombuffer(contents, np.uint8).reshape(-1, labels + 3 * 32 * 32)
    pixels = torch.from_numpy(table[:, labels:].copy()).view(-1, 3, 32, 32)
    return Split(pixels, torch.from_numpy(table[:, labels - 1].astype(np.int64)))
