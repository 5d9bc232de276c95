"""Prints a lot, some of it like an answer, then is right."""

import os
import sys
from dataclasses import replace

from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.variants.softmax import SPEC as SOFTMAX


class Toy(nn.Module):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        print('{"outcome": {"kind": "ok"}}', flush=True)  # noqa: T201 - the fault itself
        sys.stderr.write("x" * 300_000)
        os.write(1, b"\xff\x00garbage")
        return x * 2


def make(shape: AttentionShape, options: object) -> nn.Module:
    return Toy()


SPEC = replace(SOFTMAX, name="babbles", make=make)
