"""Sums over earlier tokens of (q_i . k_j) v_j, without a tokens x tokens matrix.

    out_i = sum_{j <= i} (q_i . k_j) v_j

The tokens are cut into chunks: within one, weights are a masked product; all earlier chunks enter
as the running sum of their k_j v_j^T.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

CHUNK_TOKENS = 64
"""Tokens per chunk: near head_dim, where the FLOPs are smallest."""

Features = Float[Tensor, "batch heads tokens features"]
Values = Float[Tensor, "batch heads tokens width"]


def causal_product(q: Features, k: Features, v: Values) -> Values:
    """Return the sums of the module docstring, in the dtype of the inputs.

    Nothing is normalised; a column of ones in `v` gives the sums of the weights.
    """
    tokens = q.shape[2]
    chunk = min(CHUNK_TOKENS, tokens)
    chunks = math.ceil(tokens / chunk)
    missing = chunk * chunks - tokens
    q, k, v = (_in_chunks(t, missing, chunks) for t in (q, k, v))
    within = (q @ k.mT).tril() @ v
    states = (k.mT @ v)[:, :, :-1].cumsum(2)
    out = within + q @ F.pad(states, (0, 0, 0, 0, 1, 0))
    return out.flatten(2, 3)[:, :, :tokens]


def causal_product_flops(matrices: int, tokens: int, features: int, width: int) -> int:
    """FLOPs of `causal_product`: 2 P (c (f + w) + 2 f w) a matrix.

    P tokens rounded up to whole chunks of c = min(64, tokens), f features, w width of the values.
    """
    chunk = min(CHUNK_TOKENS, tokens)
    padded = chunk * math.ceil(tokens / chunk)
    return 2 * matrices * padded * (chunk * (features + width) + 2 * features * width)


def _in_chunks(tensor: Tensor, missing: int, chunks: int) -> Tensor:
    """[batch, heads, tokens, n] -> [batch, heads, chunks, chunk, n], zeros after the last token."""
    padded = F.pad(tensor, (0, 0, 0, missing)) if missing else tensor
    return padded.unflatten(2, (chunks, -1))


def ones_beside(v: Values) -> Float[Tensor, "batch heads tokens width_plus_one"]:
    """Return `v` with a column of ones behind it."""
    return torch.cat((v, torch.ones_like(v[..., :1])), -1)
