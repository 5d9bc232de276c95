"""Published files in: what is read, what is refused, and that nothing in them runs."""

import argparse
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from attention_impls import load_backbone
from bench import safetensors
from bench.cli import main
from bench.importing import BACKBONE, imported, network, save
from bench.weights import CheckpointError, read_checkpoint

ID = "pvt_v2_b0"
"""The smallest published network: 3.7 million numbers."""


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The authors' state dict of the smallest network, with random numbers."""
    from golden.published_backbones import published_backbones

    generator = torch.Generator().manual_seed(0)
    shapes = published_backbones()[ID].shapes
    return {n: 0.02 * torch.randn(s, generator=generator) for n, s in shapes.items()}


@pytest.fixture(scope="module")
def file(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "pvt_v2_b0.pth"
    torch.save(published, path)
    return path


# Read ---------------------------------------------------------------------------------------------


def test_a_published_file_becomes_a_network(file: Path, published: dict[str, Tensor]) -> None:
    spec = load_backbone(ID)
    found = imported(file, spec)
    assert (found.num_classes, found.resolution_px, found.unused) == (1000, 224, {})
    built = network(found, spec)
    torch.testing.assert_close(built.classify.bias, torch.nn.Parameter(published["head.bias"]))
    with torch.inference_mode():
        assert built(torch.randn(1, 3, 224, 224)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("wrapped", "averaged", "entry"),
    [
        (lambda s: s, False, ""),
        (lambda s: {"model": s, "epoch": 3, "args": argparse.Namespace(lr=1.0)}, False, "model"),
        (lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}}, False, "state_dict"),
        (lambda s: {"model": {}, "model_ema": s}, True, "model_ema"),
        (
            lambda s: {"state_dict_ema": {f"module.{n}": t for n, t in s.items()}},
            True,
            "state_dict_ema",
        ),
    ],
    ids=["bare", "with settings", "data parallel", "average", "average, data parallel"],
)
def test_wherever_training_code_puts_them(
    wrapped: Any, averaged: bool, entry: str, published: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "file.pth.tar"
    torch.save(wrapped(published), path)
    found = read_checkpoint(path, averaged=averaged)
    assert found.entry == entry
    assert set(found.parameters) == set(published)


def test_the_old_format_of_torch_is_read_too(published: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(published, path, _use_new_zipfile_serialization=False)
    assert set(read_checkpoint(path).parameters) == set(published)


def test_what_was_imported_reads_back_bit_for_bit(file: Path, tmp_path: Path) -> None:
    spec = load_backbone(ID)
    found = imported(file, spec)
    path = tmp_path / "ours.safetensors"
    save(found, path)
    again = imported(path, spec)
    assert again.source_sha256 == found.source_sha256
    assert again.file_sha256 != found.file_sha256
    assert all(torch.equal(found.parameters[n], t) for n, t in again.parameters.items())
    with pytest.raises(CheckpointError, match="exists already"):
        save(found, path)
    with pytest.raises(CheckpointError, match=r"must end with \.safetensors"):
        save(found, tmp_path / "ours.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["ours.safetensors"]
    with pytest.raises(CheckpointError, match=f"holds {ID}, not pvt_v2_b1"):
        imported(path, load_backbone("pvt_v2_b1"))


# Refused ------------------------------------------------------------------------------------------


class Explosive:
    """Writes a file when it is unpickled, wherever that is allowed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_a_malicious_pickle_is_refused_and_not_executed(new: bool, tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    path = tmp_path / "evil.pth"
    torch.save({"model": Explosive(fired)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused.*Nothing was executed"):
        read_checkpoint(path)
    assert not fired.exists()


def test_the_trap_would_have_worked(tmp_path: Path) -> None:
    """Negative control: a plain unpickler runs it."""
    fired = tmp_path / "fired"
    pickle.loads(pickle.dumps(Explosive(fired)))
    assert fired.exists()


def test_settings_are_read_as_nothing(published: dict[str, Tensor], tmp_path: Path) -> None:
    """What stands for an object of training code keeps no state of it."""
    from bench.weights import Inert

    inert = Inert("anything", 3)
    inert.__setstate__({"path": "/x"})
    assert dict(inert) == {}
    assert not inert.__dict__


def damaged(name: str, whole: bytes) -> bytes:
    half = whole[: len(whole) // 2]
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    return {"cut": half, "empty": b"", "text": b"not a checkpoint at all", "head": whole[:100]}[
        name
    ]


@pytest.mark.parametrize("name", ["cut", "empty", "text", "head"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_damaged_file_is_named(name: str, ending: str, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    if ending == "safetensors":
        save(imported(file, load_backbone(ID)), tmp_path / "whole.safetensors")
        whole = (tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / f"damaged.{ending}"
    path.write_bytes(damaged(name, whole))
    with pytest.raises(CheckpointError, match=rf"damaged\.{ending}"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds no parameters"),
        ({"model": {"a": 3}}, "entry 'a' is a int"),
        ({"model": {1: torch.zeros(1)}}, "entry 1 is a Tensor"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a has values that are not finite"),
        ({"a": torch.zeros(3)}, "those of another model"),
        ({"state_dict_ema": {"a": torch.zeros(3)}}, "as state_dict_ema; take them with --averaged"),
    ],
    ids=["list", "nothing", "no tensor", "no name", "nan", "another model", "average alone"],
)
def test_what_is_no_checkpoint_of_the_network_is_named(
    content: Any, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=words) as failure:
        imported(path, load_backbone(ID))
    assert str(path) in str(failure.value)


def test_a_parameter_of_another_shape_is_named(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    torch.save({**published, "norm1.weight": torch.ones(33)}, path)
    with pytest.raises(CheckpointError, match=r"stages\.0\.norm\.weight has shape \(33,\)"):
        imported(path, load_backbone(ID))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (1, 2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize(
    "name", ["head.bias", "block1.0.attn.q.weight", "block1.0.attn.sr.weight", "norm1.weight"]
)
def test_a_parameter_of_any_wrong_shape_is_named(
    name: str, shape: tuple[int, ...], published: dict[str, Tensor], tmp_path: Path
) -> None:
    """Whatever taking it apart stumbles over: never a traceback."""
    path = tmp_path / "file.pth"
    torch.save({name: torch.zeros(shape)} | {n: t for n, t in published.items() if n != name}, path)
    with pytest.raises(CheckpointError, match=r"file\.pth: "):
        imported(path, load_backbone(ID))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_of_any_floating_type_run(
    dtype: torch.dtype, published: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    torch.save({n: t.to(dtype) for n, t in published.items()}, path)
    spec = load_backbone(ID)
    built = network(imported(path, spec, 64), spec)
    with torch.inference_mode():
        assert built(torch.randn(1, 3, 64, 64)).dtype is torch.float32


def test_whole_numbers_are_no_parameters(published: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({**published, "head.bias": torch.zeros(1000, dtype=torch.int8)}, path)
    with pytest.raises(CheckpointError, match=r"classify\.bias is of torch\.int8"):
        imported(path, load_backbone(ID))


def test_an_imported_file_keeps_the_side_it_was_fitted_to(file: Path, tmp_path: Path) -> None:
    spec = load_backbone(ID)
    save(imported(file, spec, 96), tmp_path / "ours.safetensors")
    assert imported(tmp_path / "ours.safetensors", spec).resolution_px == 96
    assert imported(tmp_path / "ours.safetensors", spec, 64).resolution_px == 64
    stored = safetensors.read(tmp_path / "ours.safetensors")
    text = {**stored.text, "attnbench_resolution_px": "big"}
    safetensors.write(tmp_path / "odd.safetensors", stored.tensors, text)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors.*'big', must be pixels"):
        imported(tmp_path / "odd.safetensors", spec)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pth: no such file"):
        read_checkpoint(tmp_path / "gone.pth")


def test_a_zip_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        read_checkpoint(path)


# The format ---------------------------------------------------------------------------------------


def stored(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (stored(b"{"), "not JSON"),
        (stored(b"[]"), "not an object"),
        (stored({"a": ONE}), "cut off or padded"),
        (stored({"a": ONE}, bytes(9)), "cut off or padded"),
        (stored({"a": {**ONE, "dtype": "X9"}}, bytes(8)), "not described as a tensor"),
        (stored({"a": {**ONE, "shape": [3]}}, bytes(8)), "has shape"),
        (stored({"a": {**ONE, "shape": [-2]}}, bytes(8)), "has shape"),
        (stored({"a": {**ONE, "data_offsets": [4, 12]}}, bytes(12)), "starts at byte 4"),
        (stored({"a": ONE, "b": ONE}, bytes(8)), "starts at byte 0"),
        (stored({"__metadata__": {"a": 1}}), "must map text to text"),
        (struct.pack("<Q", 1 << 60) + b"{}", "cut off"),
    ],
)
def test_a_wrong_safetensors_file_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(safetensors.WrongFormatError, match=words):
        safetensors.read(path)


def test_every_type_survives_writing_and_reading(tmp_path: Path) -> None:
    tensors = {
        name: torch.arange(6).to(dtype).reshape(2, 3) for name, dtype in safetensors.TYPES.items()
    }
    tensors["none"] = torch.empty(0, 4)
    safetensors.write(tmp_path / "file.safetensors", tensors, {"a": "ü"})
    found = safetensors.read(tmp_path / "file.safetensors")
    assert found.text == {"a": "ü"}
    for name, tensor in tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        safetensors.write(tmp_path / "x.safetensors", {"a": torch.zeros(1).to(torch.complex64)}, {})
    assert list(tmp_path.iterdir()) == []


# The command --------------------------------------------------------------------------------------


def test_the_command_checks_and_writes(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    done = CliRunner().invoke(
        main, ["import-checkpoint", str(file), "--backbone", ID, "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "1000 classes, 224 px" in done.output
    assert safetensors.read(out).text[BACKBONE] == ID


def test_the_command_names_file_and_entry_without_a_traceback(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    done = CliRunner().invoke(
        main, ["import-checkpoint", str(file), "--backbone", "pvt_tiny", "--out", str(out)]
    )
    assert done.exit_code == 1
    assert str(file) in done.output
    assert "no parameters below block1" in done.output or "no place" in done.output
    assert "Traceback" not in done.output
    assert not out.exists()


def test_a_pickle_from_memory_is_no_file() -> None:
    """Negative control of the reader: torch itself would read these bytes."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    buffer.seek(0)
    assert set(torch.load(buffer, weights_only=True)) == {"a"}
