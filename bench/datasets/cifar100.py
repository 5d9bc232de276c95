"""CIFAR-100: 60,000 colour images of 32 x 32 pixels, a hundred classes; 10,000 of them test.

Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, in the binary form: the coarse label,
the fine label (the one that counts), then the pixels. No licence is stated; the files stay on the
user's machine.
"""

from bench.dataset import Data
from bench.datasets.cifar10 import records
from bench.download import Remote, Source, checked, find

LICENCE = "none stated"
MEAN, DEVIATION = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
"""Of the training pixels in 0..1, for red, green and blue."""
SHA256 = {
    "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
    "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
}
SOURCE = Source(
    name="cifar-100-binary",
    title="CIFAR-100 (binary form)",
    files=tuple(SHA256),
    remotes=(
        Remote(
            url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            size_bytes=168_513_733,
        ),
    ),
    otherwise="unpack cifar-100-binary.tar.gz there",
)


def read() -> Data:
    """Return images [items, 3, 32, 32], bytes, and fine labels [items].

    Raises:
        MissingDataError: not on this machine.
        WrongDataError: a file is damaged.
    """
    folder = find(SOURCE)
    contents = {name: checked(folder / name, sha256) for name, sha256 in SHA256.items()}
    return Data(train=records(contents["train.bin"], 2), test=records(contents["test.bin"], 2))
