"""Softmax attention of which only the large weights are kept: quadratic in tokens."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Heads = Float[Tensor, "batch heads tokens head_dim"]


def attention_above(q: Heads, k: Heads, v: Heads, threshold: int | float) -> Heads:
    """Return sum_j [p_ij > threshold] p_ij v_j with p the softmax weights of q . k / sqrt(d).

    What is kept is not normalised anew. The softmax is computed in float32 or better.
    """
    accumulator = torch.promote_types(q.dtype, torch.float32)
    weights = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1, dtype=accumulator)
    return F.threshold(weights, threshold, 0.0).to(v.dtype) @ v
