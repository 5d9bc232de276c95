"""The state of a training after its last whole epoch, on disk: whole or not there at all."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.whole_file import whole_file


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be gone on from; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One file, and the training that it belongs to."""

    path: Path
    identity: dict[str, str]
    """Everything that must be the same on both sides of an interruption."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by `state`; at every moment the old or the new one is there.

        Also where two write it: a node that was given up for lost may still train.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as file:
            torch.save({"identity": self.identity, **state}, file)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state, with tensors on `device`; None if there is no file.

        Raises:
            CheckpointError: damaged, or of another training.
        """
        if not self.path.exists():
            return None
        try:
            self._undamaged()
            state = torch.load(self.path, map_location=device, weights_only=True)
            found = state.pop("identity")
        except Exception as error:  # a damaged file makes its readers say anything
            why = str(error).partition("\n")[0] or type(error).__name__
            raise CheckpointError(f"{self.path} cannot be read ({why}): delete it") from error
        different = sorted(
            f"{name} was {found.get(name)}, is {self.identity.get(name)}"
            for name in found.keys() | self.identity.keys()
            if found.get(name) != self.identity.get(name)
        )
        if different:
            raise CheckpointError(
                f"{self.path} is of another training: {'; '.join(different)}; delete it to start "
                "anew"
            )
        return state

    def _undamaged(self) -> None:
        """Compare every part with its own checksum, which torch's reader does not do.

        Raises:
            CheckpointError: a part has other contents than were written.
            Exception: not a file that torch wrote; which one depends on the damage.
        """
        with zipfile.ZipFile(self.path) as parts:
            if damaged := parts.testzip():
                raise CheckpointError(f"{damaged} has another checksum than was written")
