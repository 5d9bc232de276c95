"""Attention whose weights factor into features of queries and keys: linear in the tokens.

    out_i = q_i^T (sum_j k_j v_j^T) / (q_i^T sum_j k_j + epsilon)

q, k are non-negative features of the queries and keys, v the values; j runs over all tokens, or
over j <= i in the causal form. Over all tokens, sums are taken as means, so that numerator and
denominator keep their size in half precision however long the sequence is: dividing both by the
same number, epsilon too, changes no output.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

CHUNK_TOKENS = 64
"""Tokens per chunk of the causal form: near head_dim, where its FLOPs are smallest."""

Features = Float[Tensor, "batch heads tokens features"]
Values = Float[Tensor, "batch heads tokens head_dim"]


def token_mean(x: Values) -> Float[Tensor, "batch heads 1 head_dim"]:
    """Return the mean over tokens; float32 for half precision.

    Not `Tensor.mean`, whose gradient is a division for every element: this divides once.
    """
    return x.sum(2, keepdim=True, dtype=_accumulator(x)) * (1 / x.shape[2])


def key_value_mean(
    k: Float[Tensor, "batch heads keys features"], v: Float[Tensor, "batch heads keys head_dim"]
) -> Float[Tensor, "batch heads features head_dim"]:
    """Return the mean over tokens of k_j v_j^T."""
    per_token = 1 / k.shape[2]
    if k.dtype == _accumulator(k):
        return (k.mT @ v) * per_token
    # half precision could hold neither the sum nor, backward, the product with its gradient:
    # half of the division is done in the accumulator, the other half on the result
    unused, root = k.new_zeros(()), per_token**0.5
    state = torch.baddbmm(unused, k.flatten(0, 1).mT, v.flatten(0, 1), beta=0, alpha=root)
    return (state * root).unflatten(0, v.shape[:2])


def normalised_queries(
    q: Features,
    mean_k: Float[Tensor, "batch heads features 1"],
    added: Tensor | int | float,
    dtype: torch.dtype,
    *,
    smallest: bool = False,
) -> Features:
    """Return q_i / (q_i . mean_k + added): what the state is multiplied by, rows normalised.

    The queries are divided instead of the output, so that in half precision neither the quotient
    nor a gradient passes through a number that the dtype cannot hold.

    Args:
        q: features that nobody else holds: overwritten where no gradient needs them.
        mean_k: mean over tokens of the features of the keys; float32 beside half precision.
        added: epsilon, in units of the mean.
        dtype: of the result.
        smallest: `added` is the smallest denominator instead of a term of it.
    """
    q = q.to(mean_k.dtype).contiguous()
    total = (q @ mean_k).to(mean_k.dtype)  # under autocast the product comes rounded
    reciprocal = (total.clamp_min(added) if smallest else total.add_(added)).reciprocal()
    in_place = not (q.requires_grad or reciprocal.requires_grad)
    return (q.mul_(reciprocal) if in_place else q * reciprocal).to(dtype)


def normalised_product(
    q: Features, k: Features, v: Values, epsilon: int | float, *, smallest: bool = False
) -> Values:
    """Return the formula above over all tokens.

    Args:
        q: features of the queries that nobody else holds: overwritten where no gradient needs them.
        k: features of the keys.
        v: values.
        epsilon: added to the sum over tokens in the denominator.
        smallest: epsilon is the smallest denominator instead of a term of it.
    """
    floor = epsilon / k.shape[2]
    q = normalised_queries(q, token_mean(k).mT, floor, v.dtype, smallest=smallest)
    return q @ key_value_mean(k, v)


def causal_normalised_product(
    q: Features, k: Features, v: Values, epsilon: int | float, *, smallest: bool = False
) -> Values:
    """Return the formula above over j <= i, without a tokens x tokens matrix.

    The tokens are cut into chunks: within one, weights are a masked product; all earlier chunks
    enter as the running sum of their k_j v_j^T. Half precision is computed in float32.

    Args: as for `normalised_product`.
    """
    tokens, dtype = q.shape[2], v.dtype
    q, k, v = _chunked(q, k, v)
    weights, numerator = _sums_so_far(q, k, v)
    key_sum = _sum_of_earlier(k.sum(-2).unsqueeze(-1))
    denominator = weights.sum(-1, keepdim=True).add_(q @ key_sum)
    denominator = denominator.clamp_min(epsilon) if smallest else denominator.add_(epsilon)
    return (numerator / denominator).flatten(2, 3)[:, :, :tokens].to(dtype)


def causal_product(q: Features, k: Features, v: Values) -> Values:
    """Return q_i^T (sum over j <= i of k_j v_j^T): the causal form without its denominator.

    In float32 or better: the sum is not divided by anything.
    """
    tokens = q.shape[2]
    _, numerator = _sums_so_far(*_chunked(q, k, v))
    return numerator.flatten(2, 3)[:, :, :tokens]


def chunks_of(tokens: int) -> tuple[int, int]:
    """Return the tokens per chunk of the causal form, and the number of chunks."""
    chunk = min(CHUNK_TOKENS, tokens)
    return chunk, math.ceil(tokens / chunk)


def normalised_product_flops(
    batch: int,
    heads: int,
    tokens: int,
    head_dim: int,
    *,
    causal: bool,
    features: int | None = None,
) -> int:
    """FLOPs of the normalised products with f features; None: as many as head_dim.

    All tokens: 2 N f d each for the mean of k v^T and for q times it, 2 N f for the denominator,
    per head. Causal, with N rounded up to P tokens: `causal_product_flops` and 2 P f.
    """
    width = head_dim if features is None else features
    if not causal:
        return batch * heads * (4 * tokens * width * head_dim + 2 * tokens * width)
    chunk, chunks = chunks_of(tokens)
    products = causal_product_flops(batch, heads, tokens, head_dim, features=width)
    return products + 2 * batch * heads * chunk * chunks * width


def causal_product_flops(
    batch: int, heads: int, tokens: int, head_dim: int, *, features: int
) -> int:
    """FLOPs of `causal_product` with f features, N rounded up to P tokens in chunks of c.

    2 P f d each for k v^T and for q times it, 2 P c f for the weights within chunks, 2 P c d for
    their product with v, per head.
    """
    chunk, chunks = chunks_of(tokens)
    within = chunk * (features + head_dim)
    return 2 * batch * heads * chunk * chunks * (2 * features * head_dim + within)


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunked(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut q, k and v into chunks, in float32 or better."""
    chunk, chunks = chunks_of(q.shape[2])
    q, k, v = (_in_chunks(t.to(_accumulator(t)), chunk, chunks) for t in (q, k, v))
    return q, k, v


def _sums_so_far(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights within chunks, and q_i^T (sum over j <= i of k_j v_j^T) in all."""
    weights = (q @ k.mT).tril()
    return weights, (weights @ v).add_(q @ _sum_of_earlier(k.mT @ v))


def _in_chunks(tensor: Tensor, chunk: int, chunks: int) -> Tensor:
    """[batch, heads, tokens, n] -> [batch, heads, chunks, chunk, n], zeros after the last token."""
    missing = chunk * chunks - tensor.shape[2]
    padded = F.pad(tensor, (0, 0, 0, missing)) if missing else tensor
    return padded.reshape(*tensor.shape[:2], chunks, chunk, tensor.shape[3])


def _sum_of_earlier(of_chunk: Tensor) -> Tensor:
    """Sum over the chunks before each one."""
    return F.pad(of_chunk[:, :, :-1].cumsum(2), (0, 0, 0, 0, 1, 0))
