"""Is right for the first dozen calls."""

from dataclasses import replace

from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.variants.softmax import SPEC as SOFTMAX


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        self.calls += 1
        return x * (2 if self.calls < 12 else 1)


def make(shape: AttentionShape, options: object) -> nn.Module:
    return Toy()


SPEC = replace(SOFTMAX, name="tires", make=make)
