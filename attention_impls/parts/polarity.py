"""Features that keep the sign of a number: its positive and its negative part, side by side."""

import torch
from jaxtyping import Float
from torch import Tensor


def split_by_sign(
    x: Float[Tensor, "batch heads tokens head_dim"],
) -> Float[Tensor, "batch heads tokens features"]:
    """Return [max(x, 0), max(-x, 0)]: twice as many features, none negative."""
    return torch.cat((x, -x), 3).relu_()
