"""The demonstration: from a folder of images to a page, on a network that is tiny."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_impls.registry import UnknownName, load_backbone
from bench.demo import BACKBONE, NETWORK_PX, RECIPE, Wishes, demonstrate
from bench.demo_page import curves


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    for part, items in (("train", 80), ("test", 10)):
        for name, low in (("bright & big", 150), ("dark", 0)):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(items):
                pixels = draws.integers(low, low + 100, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{number:02}.png")
    return tmp_path / "images"


def test_it_trains_chooses_tests_once_and_shows(folder: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=4, batch=16, learning_rate=1e-3)
    wishes = Wishes(
        resolution_px=32, recipe=recipe, device="cpu", data=folder, out=tmp_path / "out"
    )
    told: list[str] = []
    page = demonstrate(wishes, told.append)
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["test_accuracy"] > 0.8
    assert len(numbers["held_out_accuracy"]) == 4
    assert numbers["best_epoch"] == 1 + numbers["held_out_accuracy"].index(
        max(numbers["held_out_accuracy"])
    )
    assert numbers["validation_images_per_s"] > 0
    assert numbers["backbone"] == "inline_deit_t"
    assert numbers["variant"].startswith("inline, revision")
    assert numbers["parameters"] == load_backbone(BACKBONE).parameters(32, num_classes=2)
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 20
    assert "bright &amp; big" in text
    assert "<script" not in text
    # started again, nothing is trained and the answer is the same
    again: list[str] = []
    demonstrate(wishes, again.append)
    assert len(again) == 1
    assert (
        json.loads((tmp_path / "out" / "numbers.json").read_text())["test_accuracy"]
        == (numbers["test_accuracy"])
    )


def test_it_is_the_published_network_with_64_tokens_and_takes_any_variant(tmp_path: Path) -> None:
    published = load_backbone(BACKBONE)
    assert (published.variant, published.title) == ("inline", "InLine-DeiT-T")
    (shape,) = {p.shape for p in published.design.attentions(NETWORK_PX)}
    assert (shape.grid.tokens, shape.extra_tokens) == (64, 1)
    wishes = Wishes(variant="in_line", device="cpu", data=tmp_path, out=tmp_path)
    with pytest.raises(UnknownName, match="inline"):
        demonstrate(wishes, print)


def test_curves_are_drawn_for_any_number_of_epochs() -> None:
    for line in ([], [0.5], [0.5, 0.5], [0.1, 0.9, 0.4]):
        drawn = curves({"a < b": line})
        assert drawn.count("<circle") == len(line)
        assert "a < b" not in drawn
