"""Attention whose weights decay with the tokens in between: linear in the tokens.

    O_i = sum_{j <= i} (q_i * D_ij) . k_j v_j + sum_{j > i} (q_i * E_ij) . k_j v_j
    D_ij = exp(f_{j+1} + ... + f_i),    E_ij = exp(b_i + ... + b_{j-1})

q, k, v: queries, keys, values of one head; f_i <= 0 the logarithm of what is left of everything
before token i on arriving there from token i - 1, b_i the same on arriving from token i + 1; both
are one number for all channels of a head, or one a channel. Without b the second sum is left out.
Each sum is a recurrence with a state of features x head_dim numbers, S_i = exp(f_i) S_{i-1} +
k_i v_i^T.

The tokens are cut into chunks (see `chunks`). Every exponential taken here has an exponent <= 0: a
decay is never divided by another. Half precision is computed in float32.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from attention_impls.parts.chunks import Chunks, carried, chunks_of, in_chunks

Keys = Float[Tensor, "batch heads tokens features"]
Values = Float[Tensor, "batch heads tokens head_dim"]
Logarithms = Float[Tensor, "#batch heads tokens #features"]
Weights = Float[Tensor, "batch heads chunks chunk chunk"]


def decayed_product(
    q: Keys, k: Keys, v: Values, forward: Logarithms, backward: Logarithms | None = None
) -> Values:
    """Return O of the module docstring.

    Args:
        q: queries.
        k: keys.
        v: values.
        forward: f, at most 0.
        backward: b, at most 0; None for the causal sum alone.
    """
    tokens, dtype = q.shape[2], v.dtype
    by_channel = forward.shape[-1] > 1
    chunk, chunks = chunks_of(tokens, power_of_two=by_channel)
    accumulator = torch.promote_types(dtype, torch.float32)

    def cut(tensor: Tensor) -> Tensor:
        return in_chunks(tensor.to(accumulator), chunk, chunks)

    q, k, v = cut(q), cut(k), cut(v)
    after = cut(forward).cumsum(3)
    before = None if backward is None else cut(backward).flip(3).cumsum(3).flip(3)
    within: Callable[..., Tensor] = _weights_by_channel if by_channel else _weights
    out = within(q, k, after, before) @ v
    if chunks > 1:
        out = _with_state(out, q, k, v, after, after[..., -1:, :], reverse=False)
        if before is not None:
            out = _with_state(out, q, k, v, before, before[..., :1, :], reverse=True)
    return out.flatten(2, 3)[:, :, :tokens].to(dtype)


def _with_state(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, sums: Tensor, total: Tensor, *, reverse: bool
) -> Tensor:
    """Add what the queries read from the other chunks on one side.

    Args:
        out: the outputs so far.
        q: queries.
        k: keys.
        v: values.
        sums: of the logarithms between the neighbour on that side and each token.
        total: of the logarithms of a whole chunk.
        reverse: the side is that of later tokens.
    """
    update = (k * (total - sums).exp()).mT @ v
    states = carried(total.exp().mT, update, reverse=reverse)
    read = torch.baddbmm(out.flatten(0, 2), (q * sums.exp()).flatten(0, 2), states.flatten(0, 2))
    return read.view_as(out)


def _weights(q: Chunks, k: Chunks, after: Tensor, before: Tensor | None) -> Weights:
    """Weights within chunks, one decay for all channels: a masked product."""
    size = q.shape[-2]
    earlier = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    exponent = after - after.mT
    if before is None:
        exponent = exponent.masked_fill(~earlier, float("-inf"))
    else:
        exponent = torch.where(earlier, exponent, before - before.mT)
    return (q @ k.mT) * exponent.exp()


def _weights_by_channel(q: Chunks, k: Chunks, after: Tensor, before: Tensor | None) -> Weights:
    """Weights within chunks, a decay a channel: of ever larger blocks, each from two halves.

    Across the border of the halves, the decay is that from the query to the border times that from
    the border to the key: two factors <= 1, and one product of matrices.
    """
    weights = (q * k).sum(-1)[..., None, None]
    size, chunk = 1, q.shape[-2]
    while size < chunk:
        (q1, q2), (k1, k2), (a1, a2) = (_halves(t, size) for t in (q, k, after))
        border = a1[..., -1:, :]
        below = (q2 * (a2 - border).exp()) @ (k1 * (border - a1).exp()).mT
        if before is None:
            above = torch.zeros_like(below)
        else:
            b1, b2 = _halves(before, size)
            border = b2[..., :1, :]
            above = (q1 * (b1 - border).exp()) @ (k2 * (border - b2).exp()).mT
        first, second = weights.unflatten(-3, (-1, 2)).unbind(-3)
        weights = torch.cat((torch.cat((first, above), -1), torch.cat((below, second), -1)), -2)
        size *= 2
    return weights.squeeze(-3)


def _halves(tensor: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cut a chunk into blocks of 2 * size tokens and each block into two."""
    first, second = tensor.unflatten(-2, (-1, 2, size)).unbind(-3)
    return first, second


def decayed_product_flops(
    batch: int,
    heads: int,
    tokens: int,
    features: int,
    head_dim: int,
    *,
    directions: int,
    by_channel: bool,
) -> int:
    """FLOPs of `decayed_product` that are products of matrices.

    N rounded up to P tokens in chunks of c, per head: 2 P c features for the weights within chunks
    (by channel half of that for each direction, without the diagonal) and 2 P c head_dim for their
    product with v; with more than one chunk 4 P features head_dim for each direction, to make the
    states and to read them.
    """
    chunk, chunks = chunks_of(tokens, power_of_two=by_channel)
    length = chunk * chunks
    weights = directions * (chunk - 1) if by_channel else 2 * chunk
    within = length * (weights * features + 2 * chunk * head_dim)
    states = 4 * directions * length * features * head_dim if chunks > 1 else 0
    return batch * heads * (within + states)


def own_products_flops(batch: int, heads: int, tokens: int, features: int) -> int:
    """2 P features per head: products of each query with its own key, by channel.

    They are written as product and sum, which counters of operators do not see.
    """
    chunk, chunks = chunks_of(tokens, power_of_two=True)
    return 2 * batch * heads * chunk * chunks * features
