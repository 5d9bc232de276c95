"""Kernels of focused linear attention, backward: gradients of queries and keys.

They need those of the gains, which are sums over the heads of a token. Symbols as in `focused`.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.focused_backward_state import queries_backward
from attention_impls.triton_parts.focused_features import (
    gain_of,
    load_column,
    load_rectified,
    rectified_backward,
)
from attention_impls.triton_parts.state import load_feature_sums, load_products, state_pointer
from attention_impls.triton_parts.tiles import head_offset, load_rows, product, row_mask, store_rows


@triton.jit
@no_type_check
def load_gain_gradient(d_gains, sequence, heads, tokens, start, last, block_tokens: tl.constexpr):
    """[block_tokens]: dG of a token, the sum over its heads."""
    total = tl.zeros((block_tokens,), tl.float32)
    d_gains += (sequence // heads).to(tl.int64) * heads * tokens
    for _ in range(heads):
        total += load_column(d_gains, start, last, block_tokens)
        d_gains += tokens
    return total


@triton.jit
@no_type_check
def focused_queries_gradient_kernel(
    q,
    upstream,
    inverse,
    squares,
    powers,
    state,
    d_gains,
    dq,
    d_scales,
    q_batch,
    q_head,
    q_token,
    upstream_batch,
    upstream_head,
    upstream_token,
    dq_batch,
    dq_head,
    dq_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    epsilon,
    exponent: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Gradient of the queries, and partial ones of `inverse`.

    Bytes: q and the output's gradient again, and dq, 3 N C e, and 4 bytes a token and head for each
    head. Floor: bytes / copy bandwidth. Binds: memory; 2 d^2 FLOPs a token and head for 3 d e
    bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    sequence = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(sequence, heads, q_batch, q_head)
    upstream += head_offset(sequence, heads, upstream_batch, upstream_head)
    dq += head_offset(sequence, heads, dq_batch, dq_head)
    inverse += (sequence % heads) * head_dim
    token_norms = (sequence // heads).to(tl.int64) * tokens
    own = state_pointer(state, sequence, block_width)
    mean_kv = load_products(own, block_width).to(q.dtype.element_ty)
    mean_k = load_feature_sums(own, block_width)
    channel = tl.arange(0, block_width)
    scale = tl.load(inverse + channel, mask=channel < head_dim, other=1.0)[None, :]
    d_scale = tl.zeros((block_width,), tl.float32)
    for start in range(first, last, block_tokens):
        a, above = load_rectified(
            q, q, inverse, start, last, q_token, 0, False, head_dim, block_tokens, block_width
        )
        gradient = load_rows(
            upstream, start, last, upstream_token, head_dim, block_tokens, block_width
        )
        square = load_column(squares + token_norms, start, last, block_tokens)
        powered = load_column(powers + token_norms, start, last, block_tokens)
        inside = row_mask(start, last, head_dim, block_tokens, block_width)
        _, _, _, d_sharp = queries_backward(
            a, inside, gain_of(square, powered), gradient, mean_kv, mean_k, epsilon, exponent,
            block_tokens, block_width,
        )  # fmt: skip
        d_gain = load_gain_gradient(d_gains, sequence, heads, tokens, start, last, block_tokens)
        d_a = rectified_backward(a, d_sharp, d_gain, square, powered, exponent)
        d_scale += tl.sum(tl.where(inside, d_a * a / scale, 0.0), 0)
        d_queries = tl.where(above, d_a * scale, 0.0)
        store_rows(dq, d_queries, start, last, dq_token, head_dim, block_tokens, block_width)
    tl.store(d_scales + program.to(tl.int64) * block_width + channel, d_scale)


@triton.jit
@no_type_check
def focused_keys_gradient_kernel(
    k,
    v,
    position,
    inverse,
    squares,
    powers,
    d_state,
    d_gains,
    dk,
    d_scales,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    dk_batch,
    dk_head,
    dk_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    root,
    exponent: tl.constexpr,
    has_position: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Gradient of the keys (and so of the position encoding), and partial ones of `inverse`.

    Bytes: k and v again, and dk, 3 N C e, and 4 bytes a token and head for each head. Floor:
    bytes / copy bandwidth. All backward passes move 12 N C e where inputs and outputs are 7: at
    most 58 % of the floor. Binds: memory; 2 d^2 FLOPs a token and head for 3 d e bytes. Measured:
    not yet.
    """
    program = tl.program_id(0)
    sequence = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    head = sequence % heads
    k += head_offset(sequence, heads, k_batch, k_head)
    v += head_offset(sequence, heads, v_batch, v_head)
    dk += head_offset(sequence, heads, dk_batch, dk_head)
    position += head * head_dim
    inverse += head * head_dim
    token_norms = (sequence // heads).to(tl.int64) * tokens
    own = state_pointer(d_state, sequence, block_width)
    d_products = tl.trans(load_products(own, block_width).to(k.dtype.element_ty))
    d_sum_k = load_feature_sums(own, block_width)
    channel = tl.arange(0, block_width)
    scale = tl.load(inverse + channel, mask=channel < head_dim, other=1.0)[None, :]
    d_scale = tl.zeros((block_width,), tl.float32)
    for start in range(first, last, block_tokens):
        a, above = load_rectified(
            k, position, inverse, start, last, k_token, heads * head_dim, has_position, head_dim,
            block_tokens, block_width,
        )  # fmt: skip
        square = load_column(squares + token_norms, start, last, block_tokens)
        powered = load_column(powers + token_norms, start, last, block_tokens)
        values = load_rows(v, start, last, v_token, head_dim, block_tokens, block_width)
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        d_keys = product(values, d_products, nothing, values.dtype) + d_sum_k[None, :]
        d_sharp = d_keys * root * gain_of(square, powered)[:, None]
        d_gain = load_gain_gradient(d_gains, sequence, heads, tokens, start, last, block_tokens)
        d_a = rectified_backward(a, d_sharp, d_gain, square, powered, exponent)
        inside = row_mask(start, last, head_dim, block_tokens, block_width)
        d_scale += tl.sum(tl.where(inside, d_a * a / scale, 0.0), 0)
        d_x = tl.where(above, d_a * scale, 0.0)
        store_rows(dk, d_x, start, last, dk_token, head_dim, block_tokens, block_width)
    tl.store(d_scales + program.to(tl.int64) * block_width + channel, d_scale)
