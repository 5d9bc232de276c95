"""A causal scan run over a sequence and over its reverse, with the same weights, and averaged.

    O = (scan(x) + reverse(scan(reverse(x)))) / 2

A token contributes to itself in both scans.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def both_ways(
    tensor: Float[Tensor, "batch heads tokens width"],
) -> Float[Tensor, "two_batches heads tokens width"]:
    """Stack a sequence and, after all of the batch, its reverse: one scan runs both ways."""
    return torch.cat((tensor, tensor.flip(2)))


def mean_of_both_ways(
    scanned: Float[Tensor, "two_batches heads tokens width"],
) -> Float[Tensor, "batch heads tokens width"]:
    """Turn the second half back and average: the inverse of `both_ways` for a scan's output."""
    ahead, back = scanned.chunk(2)
    return (ahead + back.flip(2)) * 0.5
