"""The safetensors format: named tensors and text, nothing that could be executed.

Eight bytes with the length of a JSON header, the header, then the numbers one after another. What
is read is checked against the size of the file before any number is touched.
https://github.com/huggingface/safetensors#format
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from bench.whole_file import whole_file

MOST_HEADER_BYTES = 100 << 20
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in TYPES.items()}


class WrongFormatError(ValueError):
    """The file is not what it claims to be; the message says where."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The contents of one file."""

    tensors: dict[str, Tensor]
    text: dict[str, str]
    """Whatever the writer said about them."""


def read(path: Path) -> Stored:
    """Read one file.

    Raises:
        WrongFormatError: header or sizes are wrong, or the file is cut off.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header, begin = _header(path, file, size)
        text = header.pop("__metadata__", {})
        if not isinstance(text, dict) or not all(isinstance(v, str) for v in text.values()):
            raise WrongFormatError(f"{path}: __metadata__ must map text to text")
        described = {name: _described(path, name, entry) for name, entry in header.items()}
        _require_gapless(path, described, size - begin)
        tensors: dict[str, Tensor] = {}
        for name, (dtype, shape, start, end) in described.items():
            file.seek(begin + start)
            tensors[name] = _tensor(bytearray(file.read(end - start)), dtype, shape)
    return Stored(tensors, cast("dict[str, str]", text))


def write(path: Path, tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> None:
    """Write one file whole or not at all: into a neighbour that then takes the name.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    header: dict[str, Any] = {"__metadata__": dict(text)}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-len(described) % 8)
    with whole_file(path) as file:
        file.write(struct.pack("<Q", len(described)))
        file.write(described)
        for tensor in tensors.values():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().tobytes())


def _header(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else MOST_HEADER_BYTES + 1
    if length > min(MOST_HEADER_BYTES, size - 8):
        raise WrongFormatError(
            f"{path}: not a safetensors file, or cut off ({size} bytes, its header claims {length})"
        )
    try:
        header = json.loads(file.read(length))
    except ValueError as error:
        raise WrongFormatError(f"{path}: the safetensors header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise WrongFormatError(f"{path}: the safetensors header is not an object")
    return cast("dict[str, Any]", header), 8 + length


def _described(path: Path, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    try:
        dtype, shape, (start, end) = TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, start, end))
        right = whole and end - start == math.prod(shape) * dtype.itemsize
    except (TypeError, KeyError, ValueError) as error:
        raise WrongFormatError(f"{path}: {name} is not described as a tensor") from error
    if not right:
        raise WrongFormatError(f"{path}: {name} has shape {shape} in {end - start} bytes")
    return dtype, tuple(shape), start, end


def _require_gapless(
    path: Path, described: Mapping[str, tuple[torch.dtype, tuple[int, ...], int, int]], size: int
) -> None:
    place = 0
    for name, (_, _, start, end) in sorted(described.items(), key=lambda item: item[1][2:]):
        if start != place:
            raise WrongFormatError(f"{path}: {name} starts at byte {start}, must at {place}")
        place = end
    if place != size:
        raise WrongFormatError(f"{path}: cut off or padded: {size} bytes of numbers, needs {place}")


def _tensor(raw: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)
