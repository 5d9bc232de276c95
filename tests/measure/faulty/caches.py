"""Computes once and returns that for ever."""

from dataclasses import replace

from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.variants.softmax import SPEC as SOFTMAX


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first: Tensor | None = None

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        if self.first is None:
            self.first = x * 2
        return self.first.clone()


def make(shape: AttentionShape, options: object) -> nn.Module:
    return Toy()


SPEC = replace(SOFTMAX, name="caches", make=make)
