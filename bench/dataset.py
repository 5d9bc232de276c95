"""Examples of a task as tensors, their digest, and what is said when they are missing or wrong."""

import hashlib
from dataclasses import dataclass

from torch import Tensor

IGNORED = -100
"""Label of a position that is neither trained nor counted."""


class WrongDataError(RuntimeError):
    """The data on this machine are not the ones that the task is defined on."""


@dataclass(frozen=True, slots=True)
class Split:
    """Inputs [items, ...] as the network takes them, and labels [items] or [items, positions]."""

    inputs: Tensor
    labels: Tensor

    @property
    def counted(self) -> int:
        """Labels that are trained or counted."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True, slots=True)
class Data:
    """What is trained on, and what is looked at once, after training."""

    train: Split
    test: Split

    @property
    def sha256(self) -> str:
        """Digest of all four tensors: types, sizes and contents."""
        found = hashlib.sha256()
        for split in (self.train, self.test):
            for tensor in (split.inputs, split.labels):
                found.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
                found.update(tensor.contiguous().numpy().tobytes())
        return found.hexdigest()
