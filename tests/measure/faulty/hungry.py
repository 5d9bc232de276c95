"""Asks for more memory than any limit of a test."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.variants.softmax import SPEC as SOFTMAX


class Toy(nn.Module):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return x + torch.empty(1 << 33, dtype=torch.uint8).sum()


def make(shape: AttentionShape, options: object) -> nn.Module:
    return Toy()


SPEC = replace(SOFTMAX, name="hungry", make=make)
