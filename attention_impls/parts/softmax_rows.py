"""Softmax attention of given queries over given keys, in one product each way."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Queries = Float[Tensor, "*batch queries head_dim"]
Keys = Float[Tensor, "*#batch keys head_dim"]


def softmax_rows(
    q: Queries, k: Keys, v: Keys, unseen: Bool[Tensor, "*#batch #queries keys"] | None = None
) -> Queries:
    """Return softmax(q k^T / sqrt(head_dim)) v.

    The softmax is float32 for half precision; its weights are rounded to the dtype of the inputs.

    Args:
        q: queries; any number of leading axes.
        k: keys, one set for each leading index of `q` or one for several.
        v: values, as the keys.
        unseen: True where a query must not see a key; each query sees one key at least.
    """
    scale = q.shape[-1] ** -0.5
    # the fewer rows are scaled
    scores = (q * scale) @ k.mT if q.shape[-2] <= k.shape[-2] else q @ (k * scale).mT
    if unseen is not None:
        scores.masked_fill_(unseen, float("-inf"))
    return softmax_of(scores) @ v


def softmax_of(scores: Float[Tensor, "*batch keys"]) -> Float[Tensor, "*batch keys"]:
    """Return the softmax over the last axis, computed in float32 for half precision."""
    accumulator = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(-1, dtype=accumulator).to(scores.dtype)


def softmax_rows_flops(matrices: int, queries: int, keys: int, head_dim: int) -> int:
    """FLOPs of `softmax_rows`: 2 queries keys head_dim for scores, and as much for the values."""
    return 4 * matrices * queries * keys * head_dim
