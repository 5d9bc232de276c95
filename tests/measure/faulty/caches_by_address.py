"""Remembers its answers by where the input lies."""

from dataclasses import replace

from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.variants.softmax import SPEC as SOFTMAX


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, Tensor] = {}

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        if x.data_ptr() not in self.known:
            self.known[x.data_ptr()] = x * 2
        return self.known[x.data_ptr()].clone()


def make(shape: AttentionShape, options: object) -> nn.Module:
    return Toy()


SPEC = replace(SOFTMAX, name="caches_by_address", make=make)
