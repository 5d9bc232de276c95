"""CIFAR-10 whose images were stored as JPEG (quality about 75): not CIFAR-10, and named apart.

For machines that have this folder and no network. `train/<class>/<image>.jpg` and
`test/<class>/<image>.jpg`, 50,000 and 10,000 files. Accuracies on it are never compared with those
on CIFAR-10.
"""

from pathlib import Path

from bench.dataset import Data, WrongDataError
from bench.datasets import image_folder
from bench.download import Source, find

SHA256 = "a65f6a803eddc69d46238008cc84ab649c34d0a1ee983b761c653cc88041899d"
"""Of names and contents of all files, see image_folder.files_sha256."""
SOURCE = Source(
    name="cifar10-jpeg",
    title="CIFAR-10 as JPEG files",
    files=("train/airplane/0000.jpg", "test/airplane/0000.jpg"),
    remotes=(),
    stored_bytes=55_250_913,
    otherwise="use the task cifar10, which reads the original",
)


def read() -> Data:
    """Return images [items, 3, 32, 32], bytes, and labels [items].

    Raises:
        MissingDataError: not on this machine.
        WrongDataError: the files are not the ones that the task is defined on.
    """
    folder: Path = find(SOURCE).resolve()
    found = image_folder.files_sha256(folder)
    if found != SHA256:
        raise WrongDataError(
            f"{folder}: sha256 of its files is {found}, must be {SHA256}; a file was changed, "
            "added or lost"
        )
    return image_folder.read(folder, 32)
