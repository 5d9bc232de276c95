"""Attention whose rows are centred instead of divided: the mean of the values and a covariance.

    O_i = v_mean + q_i^T S,    S = (s / N) sum_j k_j v_j^T - s k_mean v_mean^T,    s = 1 / sqrt(d)

q, k are features of queries and keys, v the values, d of them each; j runs over the N tokens. Every
key is measured from the mean key, so a row of weights sums to 1 and nothing is divided. The means
cancel in S, once, instead of in each of the N rows.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attention_impls.parts.linear_attention import key_value_mean, token_mean

Heads = Float[Tensor, "batch heads tokens head_dim"]


def centred_product(q: Heads, k: Heads, v: Heads) -> Heads:
    """Return the formula above, in memory that nobody else holds."""
    mean_k, mean_v = token_mean(k), token_mean(v)
    covariance = torch.addcmul(key_value_mean(k, v), mean_k.mT, mean_v, value=-1)
    state = (covariance * v.shape[3] ** -0.5).to(v.dtype)
    return (q @ state).add_(mean_v)
