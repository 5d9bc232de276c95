"""Top-1 and top-5 on a folder of pictures: the arithmetic, stopping and going on, and refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from attention_impls import load_backbone
from attention_impls.backbone import ImagePreparation
from bench import evaluation
from bench.cli import main
from bench.evaluation import Counted, NotesError, Order, evaluate
from bench.importing import Imported, imported, save
from bench.pictures import PictureError, Pictures, listed, prepared, sizes

COLOURS = {"blue": 2, "green": 1, "red": 0}
"""Folder -> the channel that is bright."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with four pictures each: one bright channel, noise."""
    generator = np.random.default_rng(0)
    for name, channel in COLOURS.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 90, (40, 50 + number, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            ending = ("png", "jpg", "bmp", "webp")[number]
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.{ending}")
    return tmp_path / "data"


class Brightest(nn.Module):
    """Logits are the means of blue, green and red, and nothing for other classes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).flip(1)


def order(folder: Path, out: Path, **changed: Any) -> Order:
    spec = load_backbone("vit_micro")
    checkpoint = Imported(
        backbone=spec.id, resolution_px=32, num_classes=3, parameters={}, source_sha256="0" * 64,
        file_sha256="1" * 64, entry="model", unused={}, fitted=(),
    )  # fmt: skip
    whole = Order(
        spec=spec,
        checkpoint=checkpoint,
        pictures=listed(folder, 3),
        preparation=ImagePreparation(),
        batch=5,
        workers=0,
        device="cpu",
        out=out,
    )
    return replace(whole, **changed)


@pytest.fixture(autouse=True)
def brightest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network under test is one whose answers are known."""
    monkeypatch.setattr(evaluation, "network", lambda checkpoint, spec: Brightest())


def silent(counted: Counted, total: int) -> None:
    """No display."""


def test_every_picture_counts_once(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    seen: list[int] = []
    found = evaluate(order(folder, out), lambda counted, total: seen.append(counted.pictures))
    assert (found.top1, found.top5, found.pictures) == (1.0, 1.0, 12)
    assert seen == [0, 5, 10, 12]
    assert json.loads(out.read_text())["top1"] == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out.json"]


def test_a_wrong_label_costs_exactly_its_share(folder: Path, tmp_path: Path) -> None:
    """Negative control: one of twelve pictures in the wrong folder."""
    (folder / "red" / "0.png").rename(folder / "blue" / "9.png")
    found = evaluate(order(folder, tmp_path / "out.json"), silent)
    assert found.top1 == 11 / 12


def test_top5_looks_at_five(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.0, 6, 5, 4, 3, 2, 1]).expand(len(images), 7)

    monkeypatch.setattr(evaluation, "network", lambda checkpoint, spec: Fixed())
    names = ("blue", "green", "red", "a", "b", "c", "d")
    pictures = listed(folder, 7, names)
    found = evaluate(order(folder, tmp_path / "out.json", pictures=pictures), silent)
    assert (found.top1, found.top5) == (4 / 12, 8 / 12)


@pytest.mark.parametrize("cut", [0, 7], ids=["between batches", "in a line"])
def test_stopped_it_goes_on_to_the_same_result(folder: Path, tmp_path: Path, cut: int) -> None:
    whole = evaluate(order(folder, tmp_path / "whole.json"), silent)
    out = tmp_path / "out.json"

    def stop(counted: Counted, total: int) -> None:
        if counted.pictures == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(order(folder, out), stop)
    assert not out.exists()
    notes = out.with_name("out.json.part")
    if cut:
        notes.write_bytes(notes.read_bytes()[:-cut])
    seen: list[int] = []
    again = evaluate(order(folder, out), lambda counted, total: seen.append(counted.pictures))
    assert again == whole
    assert seen == ([10, 12] if not cut else [5, 10, 12])
    assert not notes.exists()


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"preparation": ImagePreparation(crop_fraction=1.0)}, "preparation"),
        ({"spec": load_backbone("vit_tiny")}, "backbone"),
        ({"checkpoint": "model_ema"}, "source_entry"),
        ({"pictures": ("red", "green", "blue")}, "pictures_sha256"),
    ],
    ids=["preparation", "backbone", "average of the same file", "other order of classes"],
)
def test_notes_of_another_evaluation_are_refused(
    folder: Path, tmp_path: Path, changed: dict[str, Any], word: str
) -> None:
    out = tmp_path / "out.json"
    if "checkpoint" in changed:
        of_file = order(folder, out).checkpoint
        changed = {"checkpoint": replace(of_file, entry=changed["checkpoint"])}
    if "pictures" in changed:
        changed = {"pictures": listed(folder, 3, changed["pictures"])}

    def stop(counted: Counted, total: int) -> None:
        if counted.pictures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(order(folder, out), stop)
    with pytest.raises(NotesError, match=word):
        evaluate(order(folder, out, **changed), silent)


def test_a_changed_picture_is_another_evaluation(folder: Path) -> None:
    before = listed(folder, 3).sha256
    Image.new("RGB", (9, 9)).save(folder / "red" / "1.jpg")
    assert listed(folder, 3).sha256 != before


def test_decoding_in_other_processes_gives_the_same(folder: Path, tmp_path: Path) -> None:
    found = evaluate(order(folder, tmp_path / "out.json", workers=1), silent)
    assert (found.top1, found.pictures) == (1.0, 12)


# Pictures -----------------------------------------------------------------------------------------


def test_a_file_that_is_no_picture_is_named_and_what_was_counted_is_kept(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "red" / "2.bmp").write_bytes(b"no picture")
    out = tmp_path / "out.json"
    for workers in (0, 1):
        with pytest.raises(PictureError, match=r"red/2\.bmp: cannot be decoded"):
            evaluate(order(folder, out, workers=workers), silent)
    assert not out.exists()
    assert '"pictures":10' in out.with_name("out.json.part").read_text()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "empty").mkdir(), "4 classes, the network has 3"),
        (lambda f: [p.unlink() for p in (f / "red").iterdir()], "red: empty class folder"),
        (lambda f: (f / "notes.txt").write_text("x"), r"notes\.txt: is not a folder"),
        (lambda f: (f / "red" / "notes.txt").write_text("x"), r"notes\.txt: is not a picture"),
        (lambda f: (f / "red" / "deep").mkdir(), "deep: is not a picture"),
    ],
    ids=["too many", "empty", "file beside", "text inside", "folder inside"],
)
def test_a_folder_that_does_not_fit_is_named(folder: Path, spoil: Any, words: str) -> None:
    spoil(folder)
    with pytest.raises(PictureError, match=words):
        listed(folder, 3)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("blue", "green", "red"), "3 names of classes, the network has 4"),
        (("blue", "green", "x", "y"), "red: is not one of the 4 named"),
        (("blue", "green", "red", "red"), "'red' is named more than once"),
    ],
)
def test_a_list_of_classes_that_does_not_fit_is_named(
    folder: Path, names: tuple[str, ...], words: str
) -> None:
    with pytest.raises(PictureError, match=words):
        listed(folder, 4, names)


def test_classes_are_counted_in_the_order_of_the_list(folder: Path) -> None:
    found = listed(folder, 4, ("red", "other", "blue", "green"))
    assert {p.parent.name: label for p, label in zip(found.paths, found.labels, strict=True)} == {
        "red": 0, "blue": 2, "green": 3,
    }  # fmt: skip


def test_hidden_files_are_no_pictures(folder: Path) -> None:
    (folder / "red" / ".thumbs").write_text("x")
    (folder / ".cache").mkdir()
    assert len(listed(folder, 3).paths) == 12


@pytest.mark.parametrize(
    ("size", "resize", "fraction", "side", "want"),
    [
        ((500, 375), "shorter_side", 0.875, 224, (341, 256)),
        ((375, 500), "shorter_side", 0.875, 224, (256, 341)),
        ((500, 375), "both_sides", 0.875, 224, (256, 256)),
        ((500, 375), "shorter_side", 0.9, 224, (330, 248)),
        ((500, 375), "both_sides", 1.0, 384, (384, 384)),
        ((333, 333), "shorter_side", 0.875, 384, (438, 438)),
    ],
)
def test_sizes_are_those_of_the_authors_code(
    size: tuple[int, int], resize: Any, fraction: float, side: int, want: tuple[int, int]
) -> None:
    """By hand from torchvision: the longer side is cut to whole pixels."""
    assert sizes(size, ImagePreparation(resize=resize, crop_fraction=fraction), side) == want


def test_the_centre_is_cropped_and_normalised(tmp_path: Path) -> None:
    """A bright cross in the middle of 256 x 256 pixels stays in the middle of 224 x 224."""
    pixels = np.zeros((256, 256, 3), dtype=np.uint8)
    pixels[127:129, :] = pixels[:, 127:129] = 255
    Image.fromarray(pixels).save(tmp_path / "cross.png")
    preparation = ImagePreparation(mean=(0.0, 0.0, 0.5), deviation=(1.0, 2.0, 1.0))
    found = prepared(tmp_path / "cross.png", preparation, 224)
    assert found.shape == (3, 224, 224)
    assert found[0, 0].nonzero().flatten().tolist() == [111, 112]
    assert (found[0].max(), found[1].max()) == (1.0, 0.5)
    assert (found[2].max(), found[2].min()) == (0.5, -0.5)


def test_grey_and_transparent_pictures_are_read_in_colour(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (40, 40)).save(path)
        assert prepared(path, ImagePreparation(), 32).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [(3, 9000), (9000, 3)])
def test_a_line_of_pixels_does_not_fill_the_memory(size: tuple[int, int], tmp_path: Path) -> None:
    """Its shorter side becomes 256 px: 600 million pixels; squeezed into a square it is read."""
    Image.new("RGB", size).save(tmp_path / "line.png")
    with pytest.raises(PictureError, match=r"line\.png: is \d+ x \d+ px and would be resized"):
        prepared(tmp_path / "line.png", ImagePreparation(), 224)
    squeezed = ImagePreparation(resize="both_sides")
    assert prepared(tmp_path / "line.png", squeezed, 224).shape == (3, 224, 224)


# The command --------------------------------------------------------------------------------------


def test_the_command_on_a_published_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an authors' file to a result, with the real network."""
    monkeypatch.undo()
    from golden.published_backbones import published_backbones

    shapes = published_backbones()["pvt_v2_b0"].shapes
    published = {n: 0.02 * torch.randn(s) for n, s in shapes.items()}
    published |= {"head.weight": torch.randn(3, 256), "head.bias": torch.zeros(3)}
    torch.save({"model": published}, tmp_path / "file.pth")
    found = imported(tmp_path / "file.pth", load_backbone("pvt_v2_b0"), 64)
    save(found, tmp_path / "ours.safetensors")
    results = []
    # the imported file knows its side
    for checkpoint, side in (("file.pth", ("--resolution", "64")), ("ours.safetensors", ())):
        out = tmp_path / f"{checkpoint}.json"
        done = CliRunner().invoke(
            main,
            [
                "evaluate", "--backbone", "pvt_v2_b0", "--checkpoint", str(tmp_path / checkpoint),
                "--data", str(folder), *side, "--workers", "0", "--batch", "5",
                "--device", "cpu", "--out", str(out),
            ],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert "of 12 pictures" in done.output
        results.append(json.loads(out.read_text()))
    assert results[0]["top1"] == results[1]["top1"]
    assert results[0]["source_sha256"] == results[1]["source_sha256"]
    assert [found["source_entry"] for found in results] == ["model", "model"]
    assert [found["resolution_px"] for found in results] == [64, 64]


def test_the_command_names_what_is_missing(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main,
        ["evaluate", "--backbone", "pvt_v2_b0", "--checkpoint", str(tmp_path / "gone.pth"),
         "--data", str(folder)],
    )  # fmt: skip
    assert done.exit_code == 1
    assert "gone.pth: no such file" in done.output
    assert isinstance(listed(folder, 3), Pictures)
