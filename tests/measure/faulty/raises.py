"""Raises an error whose text names a path and a tag."""

from dataclasses import replace

from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.variants.softmax import SPEC as SOFTMAX


class Toy(nn.Module):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        raise RuntimeError("cannot read /home/somebody/secret/weights.bin <b>at all</b>")


def make(shape: AttentionShape, options: object) -> nn.Module:
    return Toy()


SPEC = replace(SOFTMAX, name="raises", make=make)
