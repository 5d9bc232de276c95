"""Kernels of focused linear attention, forward: the state, and the output of each token.

Symbols as in `focused`.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.focused_features import (
    gain_of,
    load_column,
    load_rectified,
    power,
)
from attention_impls.triton_parts.local import convolved
from attention_impls.triton_parts.state import (
    load_feature_sums,
    load_products,
    state_pointer,
    store_partial,
)
from attention_impls.triton_parts.tiles import head_offset, load_rows, product, row_mask, store_rows


@triton.jit
@no_type_check
def focused_state_kernel(
    k,
    v,
    position,
    inverse,
    squares,
    powers,
    partial,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    exponent: tl.constexpr,
    has_position: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Partial sums of f(k_j) v_j^T and f(k_j).

    Bytes: k again and v, 2 N C e, and two norms a token for each head; partial states, 4 (d + 2) d,
    for each program. Floor: bytes / copy bandwidth. Binds: memory; 2 d^2 FLOPs a token and head for
    2 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    sequence = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    k += head_offset(sequence, heads, k_batch, k_head)
    v += head_offset(sequence, heads, v_batch, v_head)
    head = sequence % heads
    token_norms = (sequence // heads).to(tl.int64) * tokens
    products = tl.zeros((block_width, block_width), tl.float32)
    total = tl.zeros((block_width,), tl.float32)
    for start in range(first, last, block_tokens):
        a, _ = load_rectified(
            k, position + head * head_dim, inverse + head * head_dim, start, last, k_token,
            heads * head_dim, has_position, head_dim, block_tokens, block_width,
        )  # fmt: skip
        gain = gain_of(
            load_column(squares + token_norms, start, last, block_tokens),
            load_column(powers + token_norms, start, last, block_tokens),
        )
        inside = row_mask(start, last, head_dim, block_tokens, block_width)
        keys = tl.where(inside, power(a, exponent) * gain[:, None], 0.0)
        values = load_rows(v, start, last, v_token, head_dim, block_tokens, block_width)
        products = product(tl.trans(keys), values, products, values.dtype)
        total += tl.sum(keys, 0)
    unused = tl.zeros((block_width,), tl.float32)
    store_partial(partial, program, products, total, unused, block_width)


@triton.jit
@no_type_check
def focused_queries(a, inside, gain, mean_k, epsilon, exponent: tl.constexpr):
    """Return p_i and the denominators, 1 for tokens beyond the last."""
    sharp = tl.where(inside, power(a, exponent), 0.0)
    denominator = tl.sum(sharp * mean_k[None, :], 1) + epsilon / gain
    denominator = tl.where(denominator == 0.0, 1.0, denominator)
    return sharp / denominator[:, None], denominator


@triton.jit
@no_type_check
def focused_apply_kernel(
    q,
    v,
    inverse,
    squares,
    powers,
    state,
    filters,
    bias,
    out,
    q_batch,
    q_head,
    q_token,
    v_batch,
    v_head,
    v_token,
    out_batch,
    out_head,
    out_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    rows_of_grid,
    columns,
    epsilon,
    side: tl.constexpr,
    exponent: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """The output of each program's tokens; `side` 0: without the local branch.

    Bytes: q and v again, and out, 3 N C e; a state, 4 (d + 2) d, for each program. Floor: bytes /
    copy bandwidth. All three passes move 7 N C e where inputs and output are 4: at most 57 % of the
    floor, unless the L2 cache keeps q, k and v. Binds: memory, and next to it the caches, which
    serve side^2 taps of v. Measured: not yet.
    """
    program = tl.program_id(0)
    sequence = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(sequence, heads, q_batch, q_head)
    v += head_offset(sequence, heads, v_batch, v_head)
    out += head_offset(sequence, heads, out_batch, out_head)
    inverse += (sequence % heads) * head_dim
    token_norms = (sequence // heads).to(tl.int64) * tokens
    own = state_pointer(state, sequence, block_width)
    mean_kv = load_products(own, block_width).to(q.dtype.element_ty)
    mean_k = load_feature_sums(own, block_width)
    channel = tl.arange(0, block_width)
    if side > 0:
        added = tl.load(bias + channel, mask=channel < head_dim, other=0.0).to(tl.float32)
    else:
        added = tl.zeros((block_width,), tl.float32)
    for start in range(first, last, block_tokens):
        a, _ = load_rectified(
            q, q, inverse, start, last, q_token, 0, False, head_dim, block_tokens, block_width
        )
        gain = gain_of(
            load_column(squares + token_norms, start, last, block_tokens),
            load_column(powers + token_norms, start, last, block_tokens),
        )
        inside = row_mask(start, last, head_dim, block_tokens, block_width)
        normalised, _ = focused_queries(a, inside, gain, mean_k, epsilon, exponent)
        result = tl.zeros((block_tokens, block_width), tl.float32) + added[None, :]
        result = product(normalised, mean_kv, result, mean_kv.dtype)
        if side > 0:
            result = convolved(
                result, v, filters, start, v_token, rows_of_grid, columns, 0,
                side, head_dim, block_tokens, block_width,
            )  # fmt: skip
        store_rows(out, result, start, last, out_token, head_dim, block_tokens, block_width)
