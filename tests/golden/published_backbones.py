"""Whole networks of published code: names, sizes, multiply-adds and logits, and how to compare.

`published/backbones.json` has an entry a configuration: the repository and commit it was run from,
the entries of its state dict with their shapes (`blocks.{0-11}.norm1.weight` stands for twelve),
the number of its parameters, fvcore's multiply-adds by operator for one image, and the logits of
two images in float64 with weights from `official_fill`, every `every`-th of them.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from golden.official_fill import Recipe, fill_all, input_array
from torch import Tensor

FILE = Path(__file__).parent / "published" / "backbones.json"
INPUT_SEED = 20240611
_RANGE = re.compile(r"\{(\d+)-(\d+)\}")


@dataclass(frozen=True, kw_only=True)
class PublishedBackbone:
    """One run of published code."""

    id: str
    """Our name of the configuration."""
    config: str
    """The authors' name."""
    source: str
    """Repository and commit."""
    resolution_px: int
    recipe: Recipe
    entries: dict[str, list[int]]
    """Names, with ranges of numbers in braces -> shape."""
    parameters: int
    macs: dict[str, int]
    """fvcore's multiply-adds by operator."""
    largest: float
    every: int
    values: list[float]
    float32_error: float

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every entry of the published state dict."""
        return {n: tuple(shape) for found, shape in self.entries.items() for n in spelled(found)}

    def weights(self) -> dict[str, Tensor]:
        """The published state dict, filled by name."""
        return fill_all(self.shapes, self.recipe)

    def images(self, dtype: torch.dtype) -> Tensor:
        """Two images."""
        side = self.resolution_px
        return torch.from_numpy(input_array((2, 3, side, side), INPUT_SEED)).to(dtype)

    @property
    def contractions(self) -> int:
        """Multiply-adds of matrix products and convolutions, without norms and interpolation."""
        return sum(self.macs.get(name, 0) for name in ("conv", "linear", "matmul"))

    def check(self, logits: Tensor) -> None:
        """Compare: float64 to ten digits, float32 to four times the published code's own error."""
        found = logits.detach().double().flatten()[:: self.every]
        want = torch.tensor(self.values, dtype=torch.float64)
        double = logits.dtype == torch.float64
        allowed = 1e-8 * self.largest if double else 4 * self.float32_error
        torch.testing.assert_close(found, want, rtol=0, atol=allowed)


def spelled(name: str) -> list[str]:
    """Spell out the first range of a name, then the next."""
    found = _RANGE.search(name)
    if found is None:
        return [name]
    first, last = int(found[1]), int(found[2])
    return [
        longer
        for number in range(first, last + 1)
        for longer in spelled(f"{name[: found.start()]}{number}{name[found.end() :]}")
    ]


def published_backbones() -> dict[str, PublishedBackbone]:
    """Return every configuration by `<id>` or `<id>@B`."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    found = (PublishedBackbone(**entry) for entry in entries)
    return {one.id if one.recipe == "A" else f"{one.id}@{one.recipe}": one for one in found}
