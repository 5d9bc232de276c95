"""Data sets: read in the published formats, refused when damaged, explained when missing."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

from bench import download
from bench.cli import main
from bench.dataset import WrongDataError
from bench.datasets import cifar10, cifar10_jpeg, cifar100, digits, fashion_mnist, image_folder
from bench.download import Remote, Source
from bench.download import download as fetch
from bench.task import MissingDataError


@pytest.fixture(autouse=True)
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test finds what lies on the machine."""
    monkeypatch.setenv(download.VARIABLE, str(tmp_path / "data"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for module in (cifar10, cifar100, cifar10_jpeg, fashion_mnist):
        monkeypatch.setattr(module, "SOURCE", replace(module.SOURCE, package_folder=None))
    return tmp_path / "data"


@pytest.mark.parametrize("module", [cifar10, cifar100, fashion_mnist, cifar10_jpeg])
def test_missing_data_say_where_and_how(module: ModuleType, no_data: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        module.read()
    words = str(caught.value)
    assert str(no_data / module.SOURCE.name) in words
    assert module.SOURCE.otherwise in words
    if module.SOURCE.remotes:
        assert f"attnbench download {module.SOURCE.name}" in words
    size = module.SOURCE.size_bytes or module.SOURCE.stored_bytes
    assert size > 1e6
    assert f"{size / 1e6:.0f} MB" in words


@pytest.mark.parametrize("module", [cifar10, cifar100, fashion_mnist])
def test_a_file_of_rubbish_is_named_with_what_was_found_and_expected(
    module: ModuleType, no_data: Path
) -> None:
    folder = no_data / module.SOURCE.name
    folder.mkdir(parents=True)
    for file in module.SOURCE.files:
        (folder / file).write_bytes(b"rubbish")
    with pytest.raises(WrongDataError) as caught:
        module.read()
    words = str(caught.value)
    (file,) = (f for f in module.SOURCE.files if str(folder / f) in words)
    assert hashlib.sha256(b"rubbish").hexdigest() in words
    assert module.SHA256[file.removesuffix(".gz")] in words
    assert "get it again" in words


def test_changed_digits_are_named_with_both_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    bunch = load_digits()
    pixels = bunch.data.copy()
    pixels[3, 20] += 1
    changed = SimpleNamespace(data=pixels, target=bunch.target)
    monkeypatch.setattr(digits, "load_digits", lambda: changed)
    found = hashlib.sha256(
        pixels.astype(np.uint8).tobytes() + bunch.target.astype(np.uint8).tobytes()
    ).hexdigest()
    with pytest.raises(WrongDataError, match=f"{found}, must be {digits.SHA256}"):
        digits.read()


def idx(values: np.ndarray, header: int) -> bytes:
    return bytes(header) + values.astype(np.uint8).tobytes()


def write_fashion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Small files in the published format, whose digests are taken as the expected ones."""
    draws = np.random.default_rng(0)
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {}
    digests: dict[str, str] = {}
    for part, items in (("train", 6), ("t10k", 3)):
        arrays[f"{part}-images"] = draws.integers(0, 256, (items, 28, 28))
        arrays[f"{part}-labels"] = draws.integers(0, 10, items)
        for kind, header, dimensions in (("images", 16, 3), ("labels", 8, 1)):
            name = f"{part}-{kind}-idx{dimensions}-ubyte"
            contents = idx(arrays[f"{part}-{kind}"], header)
            digests[name] = hashlib.sha256(contents).hexdigest()
            (folder / f"{name}.gz").write_bytes(gzip.compress(contents))
    monkeypatch.setattr(fashion_mnist, "SHA256", digests)
    return arrays


def test_fashion_mnist_is_read_as_published(no_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = write_fashion(no_data / "fashion-mnist", monkeypatch)
    data = fashion_mnist.read()
    assert data.train.inputs.shape == (6, 1, 28, 28)
    assert data.train.inputs.dtype == torch.uint8
    assert torch.equal(data.test.inputs[:, 0], torch.from_numpy(arrays["t10k-images"]).byte())
    assert data.test.labels.tolist() == arrays["t10k-labels"].tolist()


@pytest.mark.parametrize("damage", ["one byte", "cut off"])
def test_a_damaged_file_is_named_with_both_digests(
    damage: str, no_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(no_data / "fashion-mnist", monkeypatch)
    path = no_data / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz"
    if damage == "one byte":
        contents = bytearray(gzip.decompress(path.read_bytes()))
        contents[-1] ^= 1
        path.write_bytes(gzip.compress(bytes(contents)))
        expected = fashion_mnist.SHA256["t10k-labels-idx1-ubyte"]
        found = hashlib.sha256(bytes(contents)).hexdigest()
        match = f"labels-idx1-ubyte.gz .*{found}.*{expected}"
    else:
        path.write_bytes(path.read_bytes()[:-9])
        match = "labels-idx1-ubyte.gz is damaged"
    with pytest.raises(WrongDataError, match=match):
        fashion_mnist.read()


def cifar_records(items: int, labels: int) -> tuple[bytes, np.ndarray]:
    table = np.random.default_rng(items).integers(0, 256, (items, labels + 3072), dtype=np.uint8)
    return table.tobytes(), table


def test_cifar10_is_read_as_published(no_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = no_data / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    digests, tables = {}, {}
    for place, name in enumerate(cifar10.SHA256):
        contents, tables[name] = cifar_records(place + 2, 1)
        (folder / name).write_bytes(contents)
        digests[name] = hashlib.sha256(contents).hexdigest()
    monkeypatch.setattr(cifar10, "SHA256", digests)
    data = cifar10.read()
    assert len(data.train.labels) == 2 + 3 + 4 + 5 + 6
    first = tables["data_batch_1.bin"]
    assert data.train.labels[:2].tolist() == first[:, 0].tolist()
    assert data.train.inputs[1, 2, 31, 31] == first[1, -1]
    assert data.train.inputs[1, 0, 0, 1] == first[1, 2]
    assert data.test.labels.tolist() == tables["test_batch.bin"][:, 0].tolist()
    (folder / "data_batch_3.bin").write_bytes(b"x")
    with pytest.raises(WrongDataError, match=r"data_batch_3\.bin is damaged"):
        cifar10.read()


def test_cifar100_takes_the_fine_label(no_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = no_data / "cifar-100-binary"
    folder.mkdir(parents=True)
    digests, tables = {}, {}
    for place, name in enumerate(cifar100.SHA256):
        contents, tables[name] = cifar_records(place + 2, 2)
        (folder / name).write_bytes(contents)
        digests[name] = hashlib.sha256(contents).hexdigest()
    monkeypatch.setattr(cifar100, "SHA256", digests)
    data = cifar100.read()
    assert data.train.labels.tolist() == tables["train.bin"][:, 1].tolist()
    assert data.train.inputs[0, 0, 0, 0] == tables["train.bin"][0, 2]


# Folders of images --------------------------------------------------------------------------------


def write_folder(root: Path, size: tuple[int, int] = (32, 32)) -> None:
    draws = np.random.default_rng(0)
    for part, items in (("train", 3), ("test", 2)):
        for name in ("cat", "ant"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(items):
                pixels = draws.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def test_a_folder_of_images_is_read_in_order(tmp_path: Path) -> None:
    write_folder(tmp_path)
    data = image_folder.read(tmp_path, 32)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with Image.open(tmp_path / "train" / "ant" / "1.png") as image:
        expected = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    assert torch.equal(data.train.inputs[1], expected)


def test_other_sizes_are_cut_to_the_middle_and_scaled(tmp_path: Path) -> None:
    picture = np.zeros((20, 60, 3), dtype=np.uint8)
    picture[:, 20:40] = 200
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / part / "a" / "0.png")
    data = image_folder.read(tmp_path, 8)
    assert data.test.inputs.shape == (1, 3, 8, 8)
    assert int(data.test.inputs.min()) > 150


def test_a_folder_that_is_none_is_explained(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="has no folder train"):
        image_folder.read(tmp_path, 8)
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(MissingDataError, match="holds no image"):
        image_folder.read(tmp_path, 8)


def test_a_damaged_image_and_foreign_classes_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train" / "ant" / "1.png").write_bytes(b"\x89PNG\r\n but no more")
    with pytest.raises(WrongDataError, match=r"1\.png cannot be decoded"):
        image_folder.read(tmp_path, 8)
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(WrongDataError, match="other classes"):
        image_folder.listed(tmp_path, "test")


def test_the_digest_of_a_folder_sees_every_change(tmp_path: Path) -> None:
    write_folder(tmp_path)
    before = image_folder.files_sha256(tmp_path)
    path = tmp_path / "test" / "cat" / "0.png"
    contents = path.read_bytes()
    path.write_bytes(contents + b" ")
    changed = image_folder.files_sha256(tmp_path)
    path.write_bytes(contents)
    assert image_folder.files_sha256(tmp_path) == before
    path.rename(path.with_name("9.png"))
    assert len({before, changed, image_folder.files_sha256(tmp_path)}) == 3


def test_a_changed_folder_is_not_cifar10_jpeg(no_data: Path) -> None:
    for file in cifar10_jpeg.SOURCE.files:
        path = no_data / "cifar10-jpeg" / file
        path.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(WrongDataError, match=f"must be {cifar10_jpeg.SHA256}"):
        cifar10_jpeg.read()


# Download -----------------------------------------------------------------------------------------


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


def archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, contents in (("inside/one.bin", b"one"), ("../two.bin", b"two")):
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))
    return packed.getvalue()


def source(url: str, sha256: str) -> Source:
    return Source(
        name="sample",
        title="Sample",
        files=("one.bin", "two.bin"),
        remotes=(Remote(url=url, sha256=sha256, size_bytes=200),),
        otherwise="make it yourself",
    )


def test_an_archive_is_checked_unpacked_and_found(server: tuple[str, Path], no_data: Path) -> None:
    address, folder = server
    (folder / "sample.tar.gz").write_bytes(archive())
    told: list[str] = []
    wanted = source(f"{address}/sample.tar.gz", hashlib.sha256(archive()).hexdigest())
    assert fetch(wanted, told.append) == no_data / "sample"
    assert download.find(wanted) == no_data / "sample"
    assert (no_data / "sample" / "two.bin").read_bytes() == b"two"
    assert sorted(p.name for p in (no_data / "sample").iterdir()) == ["one.bin", "two.bin"]
    assert not (no_data / "two.bin").exists()
    assert len(told) == 1
    fetch(wanted, told.append)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("module", "inside"), [(cifar10, "cifar-10-batches-bin"), (cifar100, "cifar-100-binary")]
)
def test_the_command_brings_cifar_and_the_task_reads_it(
    module: ModuleType,
    inside: str,
    server: tuple[str, Path],
    no_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The authors' archive in small: their folder, their file names, and what else lies in it."""
    address, folder = server
    labels = 1 if module is cifar10 else 2
    contents = {name: cifar_records(n + 2, labels)[0] for n, name in enumerate(module.SHA256)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in {**contents, "batches.meta.txt": b"cat", "readme.html": b"<p>"}.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (remote,) = module.SOURCE.remotes
    name = remote.url.rpartition("/")[2]
    (folder / name).write_bytes(packed.getvalue())
    near = replace(
        remote, url=f"{address}/{name}", sha256=hashlib.sha256(packed.getvalue()).hexdigest()
    )
    monkeypatch.setattr(module, "SOURCE", replace(module.SOURCE, remotes=(near,)))
    digests = {n: hashlib.sha256(data).hexdigest() for n, data in contents.items()}
    monkeypatch.setattr(module, "SHA256", digests)

    with pytest.raises(MissingDataError, match="attnbench download"):
        module.read()
    done = CliRunner().invoke(main, ["download", inside])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (no_data / inside).iterdir()) == sorted(contents)
    data = module.read()
    records = (len(contents["test_batch.bin" if labels == 1 else "test.bin"]), labels + 3072)
    assert len(data.test.labels) == records[0] // records[1]

    # half an archive is not taken for one, and leaves nothing behind
    for file in (no_data / inside).iterdir():
        file.unlink()
    (folder / name).write_bytes(packed.getvalue()[:-20])
    done = CliRunner().invoke(main, ["download", inside])
    assert done.exit_code == 1
    assert near.sha256 in done.output.replace("\n", "")
    assert list((no_data / inside).iterdir()) == []


def test_the_files_that_are_lacking_are_named(no_data: Path) -> None:
    folder = no_data / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in list(cifar10.SHA256)[:-1]:
        (folder / name).write_bytes(b"x")
    with pytest.raises(MissingDataError) as caught:
        cifar10.read()
    assert f"{folder} lacks test_batch.bin" in str(caught.value)
    assert "lacks data_batch" not in str(caught.value)


def test_what_is_not_expected_is_deleted(server: tuple[str, Path], no_data: Path) -> None:
    address, folder = server
    (folder / "sample.tar.gz").write_bytes(b"something else")
    with pytest.raises(WrongDataError, match=f"must be {'0' * 64}; it was deleted"):
        fetch(source(f"{address}/sample.tar.gz", "0" * 64), lambda _: None)
    assert list((no_data / "sample").iterdir()) == []


def test_an_unreachable_address_says_what_to_do(no_data: Path) -> None:
    with pytest.raises(MissingDataError, match=r"cannot be reached .* put it into"):
        fetch(source("http://127.0.0.1:9/sample.tar.gz", "0" * 64), lambda _: None)
