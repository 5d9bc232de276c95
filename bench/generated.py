"""Examples that take minutes to generate, kept on disk whole or not at all, by digest of rules.

The file is a convenience. The row's data digest is that of the tensors that were trained on, so a
file that was changed shows there, too.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.dataset import Data, Split
from bench.download import VARIABLE
from bench.whole_file import whole_file

_PARTS = ("train_inputs", "train_labels", "test_inputs", "test_labels")


def folder() -> Path:
    """Return where generated examples are kept: below the folder of all data sets."""
    named = os.environ.get(VARIABLE)
    base = Path(named) if named else Path.home() / ".cache" / "attnbench"
    return base / "generated"


def remembered(name: str, rules: str, make: Callable[[], Data]) -> Data:
    """Return examples from the disk, or make and keep them.

    Args:
        name: first part of the file's name.
        rules: everything that decides the examples; another text is another file.
        make: generates them.
    """
    digest = hashlib.sha256(rules.encode()).hexdigest()[:12]
    path = folder() / f"{name}-{digest}.npz"
    if path.is_file():
        with np.load(path) as kept:
            tensors = [torch.from_numpy(kept[part]) for part in _PARTS]
        return Data(Split(*tensors[:2]), Split(*tensors[2:]))
    data = make()
    tensors = [data.train.inputs, data.train.labels, data.test.inputs, data.test.labels]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        contents = {part: t.numpy() for part, t in zip(_PARTS, tensors, strict=True)}
        np.savez_compressed(file, allow_pickle=False, **contents)
    return data
