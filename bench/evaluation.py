"""Top-1 and top-5 accuracy of a checkpoint on a folder of pictures: streaming, and resumable.

What was counted is written down after every batch (one line, fsync), so that a stopped evaluation
goes on where it was; the notes name checkpoint, pictures and preparation, and are refused for any
others.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from attention_impls.backbone import BackboneSpec, ImagePreparation
from bench.importing import Imported, network
from bench.pictures import PictureError, Pictures, Prepared, Unreadable, together
from bench.whole_file import whole_file

Report = Callable[["Counted", int], None]
"""Told after every batch what was counted so far, and of how many pictures."""


class NotesError(ValueError):
    """Notes of an earlier evaluation that do not belong to this one."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Pictures seen, and those whose class was first or among the first five."""

    pictures: int = 0
    top1: int = 0
    top5: int = 0

    def plus(self, other: "Counted") -> "Counted":
        """Both together."""
        return Counted(
            self.pictures + other.pictures, self.top1 + other.top1, self.top5 + other.top5
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is evaluated, and how."""

    spec: BackboneSpec
    checkpoint: Imported
    pictures: Pictures
    preparation: ImagePreparation
    batch: int
    workers: int
    """Processes that decode pictures; 0: this one."""
    device: str
    out: Path
    """Where the result is written; the notes are beside it, ending with `.part`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The result."""

    backbone: str
    resolution_px: int
    top1: float
    """Fraction 0..1."""
    top5: float
    """Fraction 0..1; with fewer than six classes it is 1."""
    pictures: int
    num_classes: int
    checkpoint_sha256: str
    source_sha256: str
    source_entry: str
    """Where in the authors' file the parameters were; their running average has a place of its own.
    """
    pictures_sha256: str
    preparation: dict[str, Any]


def evaluate(order: Order, report: Report) -> Evaluated:
    """Evaluate, going on from notes of the same evaluation if there are any.

    Raises:
        PictureError: a picture cannot be decoded; what was counted before it is kept.
        NotesError: the notes belong to another evaluation.
        OSError: notes or result cannot be written.
    """
    notes = Notes(order.out.with_name(order.out.name + ".part"), _identity(order))
    counted = notes.read()
    total = len(order.pictures.paths)
    report(counted, total)
    model = network(order.checkpoint, order.spec).to(order.device)
    rest = Prepared(
        order.pictures, order.preparation, order.checkpoint.resolution_px, counted.pictures
    )
    batches = DataLoader(
        rest, batch_size=order.batch, num_workers=order.workers, collate_fn=together
    )
    with notes:
        for found in batches if len(rest) else ():
            if isinstance(found, Unreadable):
                raise PictureError(found.reason)
            images, labels = found
            counted = counted.plus(_count(model, images.to(order.device), labels))
            notes.add(counted)
            report(counted, total)
    result = Evaluated(
        backbone=order.spec.id,
        resolution_px=order.checkpoint.resolution_px,
        top1=counted.top1 / counted.pictures,
        top5=counted.top5 / counted.pictures,
        pictures=counted.pictures,
        num_classes=order.checkpoint.num_classes,
        checkpoint_sha256=order.checkpoint.file_sha256,
        source_sha256=order.checkpoint.source_sha256,
        source_entry=order.checkpoint.entry,
        pictures_sha256=order.pictures.sha256,
        preparation=asdict(order.preparation),
    )
    with whole_file(order.out) as file:
        file.write((json.dumps(asdict(result), indent=1, sort_keys=True) + "\n").encode())
    notes.path.unlink()
    return result


def _identity(order: Order) -> dict[str, Any]:
    """Everything that the counts depend on; the batch does not belong to it."""
    return {
        "backbone": order.spec.id,
        "resolution_px": order.checkpoint.resolution_px,
        "checkpoint_sha256": order.checkpoint.file_sha256,
        "source_entry": order.checkpoint.entry,
        "pictures_sha256": order.pictures.sha256,
        "preparation": json.loads(json.dumps(asdict(order.preparation))),
    }


@torch.inference_mode()
def _count(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Counted:
    logits = cast("torch.Tensor", model(images)).float().cpu()
    first = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = first == labels[:, None]
    return Counted(len(labels), int(hits[:, 0].sum()), int(hits.sum()))


class Notes:
    """What was counted so far, one line a batch; a line that was cut off is as if not written."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = identity
        self._length = 0
        self._file: Any = None

    def read(self) -> Counted:
        """Return the last counts. Raises NotesError when they are of another evaluation."""
        if not self.path.exists():
            return Counted()
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        lines = whole[:end].splitlines()
        if not lines:
            return Counted()
        try:
            first, last = json.loads(lines[0]), json.loads(lines[-1])
            counted = Counted(**last) if len(lines) > 1 else Counted()
        except (ValueError, TypeError) as error:
            raise NotesError(f"{self.path}: not notes of an evaluation; remove it") from error
        if first != self.identity:
            other = [name for name in self.identity if first.get(name) != self.identity[name]]
            raise NotesError(
                f"{self.path}: notes of another evaluation ({', '.join(other)} differ); remove it "
                "or give another --out"
            )
        self._length = end
        return counted

    def __enter__(self) -> "Notes":
        self._file = self.path.open("r+b" if self._length else "wb")
        self._file.seek(self._length)
        self._file.truncate()
        if not self._length:
            self._line(self.identity)
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def add(self, counted: Counted) -> None:
        """Write down what was counted, so that it survives whatever comes next."""
        self._line(asdict(counted))

    def _line(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
