"""The authors' checkpoints into networks of this project, checked name by name."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attention_impls.backbone import BackboneSpec
from bench import safetensors
from bench.weights import Checkpoint, CheckpointError, read_checkpoint

BACKBONE = "attnbench_backbone"
RESOLUTION = "attnbench_resolution_px"
SOURCE = "attnbench_source_sha256"
ENTRY = "attnbench_source_entry"
"""Names in the text of an imported file: what it holds, the digest of the file that it came from,
and where in that file the parameters were."""
CLASSIFIER = "classify.bias"
COUNTER = ".num_batches_tracked"
"""End of the only names that are no floating-point numbers: batch norm's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Parameters under our names, which fit a network of `resolution_px`."""

    backbone: str
    resolution_px: int
    num_classes: int
    parameters: dict[str, Tensor]
    source_sha256: str
    """Digest of the authors' file."""
    file_sha256: str
    """Digest of the file that was read."""
    entry: str
    """Where in the authors' file the parameters were: one file can hold several sets of them."""
    unused: dict[str, str]
    """Entries of the authors' file that are not needed -> why."""
    fitted: tuple[str, ...]
    """Position tables that were interpolated."""


def imported(
    path: Path, spec: BackboneSpec, resolution_px: int | None = None, *, averaged: bool = False
) -> Imported:
    """Read a file of the authors, or one written by `save`, for `spec` at `resolution_px`.

    Without `resolution_px` it is the side that `save` wrote down, else the published one.

    Raises:
        CheckpointError: the file cannot be read, or holds another network; names file and entry.
        UnsupportedShape: the network cannot have this resolution.
    """
    checkpoint = read_checkpoint(path, averaged=averaged)
    ours = checkpoint.text.get(BACKBONE)
    if ours is not None and ours != spec.id:
        raise CheckpointError(f"{path}: holds {ours}, not {spec.id}")
    side = resolution_px or _resolution(checkpoint) or spec.resolution_px
    try:
        unused = {} if ours else spec.unused_official(checkpoint.parameters)
        adopted = checkpoint.parameters if ours else spec.adopt_official(checkpoint.parameters)
        if CLASSIFIER not in adopted:
            raise KeyError(f"no {CLASSIFIER}")
        num_classes = adopted[CLASSIFIER].numel()
        fitted = spec.fitted(adopted, num_classes=num_classes, resolution_px=side)
    except (KeyError, ValueError, RuntimeError, TypeError, IndexError) as error:
        # the last three: a tensor of a shape that cannot be taken apart as the authors' is
        reason = error.args[0] if error.args else type(error).__name__
        raise CheckpointError(f"{path}: {reason}") from error
    return Imported(
        backbone=spec.id,
        resolution_px=side,
        num_classes=num_classes,
        parameters={name: _single(path, name, value) for name, value in fitted.items()},
        source_sha256=_source(checkpoint),
        file_sha256=checkpoint.sha256,
        entry=checkpoint.text.get(ENTRY, checkpoint.entry),
        unused=unused,
        fitted=tuple(n for n, value in fitted.items() if value.shape != adopted[n].shape),
    )


def _resolution(checkpoint: Checkpoint) -> int | None:
    """Side for which `save` wrote the file; None for a file of the authors."""
    written = checkpoint.text.get(RESOLUTION)
    if written is None:
        return None
    if not written.isdecimal() or int(written) < 1:
        raise CheckpointError(f"{checkpoint.path}: {RESOLUTION} is {written!r}, must be pixels")
    return int(written)


def _single(path: Path, name: str, value: Tensor) -> Tensor:
    """Return a parameter as float32, whatever the file keeps it in; counters as they are."""
    if value.is_floating_point():
        return value.float()
    if name.endswith(COUNTER):
        return value
    raise CheckpointError(f"{path}: {name} is of {value.dtype}, must be floating point")


def _source(checkpoint: Checkpoint) -> str:
    return checkpoint.text.get(SOURCE, checkpoint.sha256)


def network(found: Imported, spec: BackboneSpec) -> nn.Module:
    """Build the network with these parameters, in evaluation mode."""
    with torch.device("meta"):
        built = spec.build(found.num_classes, found.resolution_px)
    built.load_state_dict(found.parameters, strict=True, assign=True)
    missing = [n for n, t in (*built.named_parameters(), *built.named_buffers()) if t.is_meta]
    if missing:
        built = spec.build(found.num_classes, found.resolution_px)
        built.load_state_dict(found.parameters, strict=True)
    return built.eval()


def save(found: Imported, path: Path) -> None:
    """Write the parameters as safetensors, whole or not at all.

    Raises:
        CheckpointError: the name does not end with `.safetensors`, or the file exists already.
    """
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: the name must end with .safetensors")
    if path.exists():
        raise CheckpointError(f"{path}: exists already; choose another name or remove it")
    text = {
        BACKBONE: found.backbone,
        RESOLUTION: str(found.resolution_px),
        SOURCE: found.source_sha256,
        ENTRY: found.entry,
    }
    safetensors.write(path, found.parameters, text)
