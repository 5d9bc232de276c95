"""Never returns, and leaves its process id where a test can find it."""

import os
import time
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.variants.softmax import SPEC as SOFTMAX


class Toy(nn.Module):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        if "HANGS_PID_FILE" in os.environ:
            Path(os.environ["HANGS_PID_FILE"]).write_text(str(os.getpid()))
        while True:
            time.sleep(0.1)


def make(shape: AttentionShape, options: object) -> nn.Module:
    return Toy()


SPEC = replace(SOFTMAX, name="hangs", make=make)
