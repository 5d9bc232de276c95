"""The decay that Mamba computes from each token: exp(-exp(A) Delta), Delta = softplus(W x + b)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.shapes import AttentionShape

Stream = Float[Tensor, "batch tokens channels"]
ByToken = Float[Tensor, "batch heads tokens 1"]

_LEAST_STEP, _MOST_STEP = 1e-3, 1e-1
"""Delta at the start of training, for W x = 0: logarithms uniform between these."""


class SelectiveDecay(nn.Module):
    """Delta and the logarithm of the decay, one number a token and head.

    Parameters: `step` (W, channels to heads), `step_bias` (b) and `log_rate` (A), one a head.
    """

    def __init__(self, shape: AttentionShape, *, rates: tuple[float, float]) -> None:
        """Initialise as the authors do.

        Args:
            shape: sizes; heads and channels are used.
            rates: exp(A) is uniform between these at the start.
        """
        super().__init__()
        self.step = nn.Linear(shape.channels, shape.heads, bias=False)
        low, high = math.log(_LEAST_STEP), math.log(_MOST_STEP)
        delta = torch.empty(shape.heads).uniform_(low, high).exp()
        # the inverse of softplus
        self.step_bias = nn.Parameter(delta + (-torch.expm1(-delta)).log())
        self.log_rate = nn.Parameter(torch.empty(shape.heads).uniform_(*rates).log())

    def forward(self, x: Stream) -> tuple[ByToken, ByToken]:
        """Return Delta and -exp(A) Delta; float32 for half precision."""
        accumulator = torch.promote_types(x.dtype, torch.float32)
        delta = F.softplus(self.step(x).to(accumulator) + self.step_bias)
        decay = delta * -self.log_rate.to(accumulator).exp()
        return delta.transpose(1, 2).unsqueeze(-1), decay.transpose(1, 2).unsqueeze(-1)


def selective_decay_flops(shape: AttentionShape) -> int:
    """2 B N C h: the map from channels to heads."""
    return 2 * shape.batch * shape.tokens * shape.channels * shape.heads
