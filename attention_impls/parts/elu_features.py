"""The feature map elu + 1, kept precise enough for what sums and turns its features."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Heads = Float[Tensor, "batch heads tokens head_dim"]


def positive_features(x: Heads) -> Heads:
    """Return elu(x) + 1, contiguous, that nobody else holds; float32 for half precision."""
    exact = torch.promote_types(x.dtype, torch.float32)
    return F.elu(x.to(exact).contiguous()).add_(1)
