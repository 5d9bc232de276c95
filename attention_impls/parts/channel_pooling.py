"""Values pooled once for each channel of the keys: the channel is an attention map over tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

from attention_impls.parts.linear_attention import key_value_mean


def pooled_values(
    k: Float[Tensor, "batch heads tokens features"], v: Float[Tensor, "batch heads tokens head_dim"]
) -> Float[Tensor, "batch heads features head_dim"]:
    """Return sum_j softmax_j(k_jc) v_j for each channel c, the softmax over the tokens.

    Weights are rounded to the dtype of the values N times as large and averaged, so that they are
    1 in the mean however long the sequence is: half precision cannot hold a weight of 1 / N.
    """
    accumulator = torch.promote_types(k.dtype, torch.float32)
    weights = k.softmax(2, dtype=accumulator).mul(k.shape[2]).to(v.dtype)
    return key_value_mean(weights, v)
