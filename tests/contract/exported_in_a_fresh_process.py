"""Layers through torch.export, in a process without pytest's import hook, which no graph can hold.

    python -m contract.exported_in_a_fresh_process NAME...

prints one JSON object: name -> what went wrong, empty where the exported program is the layer.
"""

import json
import sys

import torch
from contract.checked_layer import home
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid, load

STUBBORN = "stubborn"
"""A name for a layer that cannot be exported."""


class OnGrid(nn.Module):
    """A layer on one grid: only tensors go in."""

    def __init__(self, layer: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.layer = layer
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.grid)


class Stubborn(nn.Module):
    """Decides by the values of its input."""

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return x + 1 if bool(x.sum() > 0) else x - 1


def fault(layer: nn.Module, shape: AttentionShape) -> str:
    """What is wrong with the exported program of a layer, or nothing."""
    whole = OnGrid(layer, shape.grid).eval()
    generator = torch.Generator().manual_seed(0)
    sizes = (2, shape.batch, shape.tokens, shape.channels)
    x, other = torch.randn(sizes, generator=generator)
    try:
        with torch.no_grad():
            program = torch.export.export(whole, (x,)).module()
            torch.testing.assert_close(program(other), whole(other), atol=1e-4, rtol=1e-4)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


def main(names: list[str]) -> None:
    """Print what is wrong with each."""
    found: dict[str, str] = {}
    for name in names:
        spec = load("softmax" if name == STUBBORN else name)
        shape = home(spec)
        torch.manual_seed(0)
        found[name] = fault(Stubborn() if name == STUBBORN else spec.build(shape), shape)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
