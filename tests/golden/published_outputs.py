"""Outputs of published code on inputs and weights from `official_fill`, and how to compare.

Each file in `published/` is a list of cases: the published class with the repository and commit it
was run from, its arguments, the shapes of its parameters (filled by name) and of its inputs (the
i-th is `input_array(shape, 1000 + i)`), and what it gave in float64: every `every`-th element, the
size of the `largest` one, and `float32_error`, the published code's own largest error in float32.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from golden.official_fill import INPUT_SEED, Recipe, fill_all, input_array
from torch import Tensor

FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One run of published code."""

    id: str
    source: str
    """Repository and commit."""
    output: list[int]
    """Shape of the output."""
    largest: float
    """Largest absolute value of the output."""
    every: int
    """Distance between the kept elements of the flattened output."""
    values: list[float]
    """The first kept elements."""
    class_: str = ""
    arguments: dict[str, Any]
    recipe: Recipe = "A"
    parameters: dict[str, list[int]]
    inputs: list[list[int]]
    float32_error: float = 0.0

    def weights(self) -> dict[str, Tensor]:
        """The published state dict."""
        return fill_all({n: tuple(s) for n, s in self.parameters.items()}, self.recipe)

    def tensors(self, dtype: torch.dtype) -> list[Tensor]:
        """The inputs."""
        arrays = (input_array(tuple(s), INPUT_SEED + i) for i, s in enumerate(self.inputs))
        return [torch.from_numpy(a).to(dtype) for a in arrays]

    def check(self, got: Tensor) -> float:
        """Compare with the published output; return the largest difference.

        float64: to the ten digits that are kept, with room for another order of summation.
        float32: four times the error that the published code itself has in float32.
        """
        assert list(got.shape) == self.output
        found = got.detach().double().flatten()[:: self.every][: len(self.values)]
        want = torch.tensor(self.values, dtype=torch.float64)
        double = got.dtype == torch.float64
        allowed = 1e-8 * self.largest if double else 4 * self.float32_error
        torch.testing.assert_close(found, want, rtol=0, atol=allowed)
        return (found - want).abs().max().item()


def published(name: str) -> dict[str, Published]:
    """Return the cases of `published/<name>.json` by id."""
    found: dict[str, Published] = {}
    for case in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")):
        absent = {"arguments": {}, "parameters": {}, "inputs": []}
        fields = absent | {("class_" if k == "class" else k): v for k, v in case.items()}
        if steps := fields.pop("steps", None):
            fields["arguments"] = {"steps": steps}
        found[case["id"]] = Published(**fields)
    return found
