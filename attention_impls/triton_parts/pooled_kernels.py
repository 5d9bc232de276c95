"""Kernels of efficient attention, forward and backward. Symbols as in `pooled`."""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.state import (
    load_feature_sums,
    load_products,
    load_value_sums,
    state_pointer,
    store_partial,
)
from attention_impls.triton_parts.tiles import (
    head_offset,
    load_rows,
    product,
    row_mask,
    store_rows,
)


@triton.jit
@no_type_check
def pool_kernel(
    k,
    v,
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
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Partial states: sum_j exp(k_jc - m_c) v_j, the sum of the weights, and m, the largest keys.

    Bytes: k and v once, 2 N C e; partial states, 4 (d + 2) d for each program. Floor: bytes / copy
    bandwidth. Binds: memory; 2 d^2 FLOPs and d exp a token and head for 2 d e bytes. Measured: not
    yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    k += head_offset(head, heads, k_batch, k_head)
    v += head_offset(head, heads, v_batch, v_head)
    products = tl.zeros((block_width, block_width), tl.float32)
    total = tl.zeros((block_width,), tl.float32)
    largest = tl.full((block_width,), float("-inf"), tl.float32)
    for start in range(first, last, block_tokens):
        keys = load_rows(k, start, last, k_token, head_dim, block_tokens, block_width)
        values = load_rows(v, start, last, v_token, head_dim, block_tokens, block_width)
        here = row_mask(start, last, block_width, block_tokens, block_width)
        keys = tl.where(here, keys.to(tl.float32), float("-inf"))
        larger = tl.maximum(largest, tl.max(keys, 0))
        rescale = tl.exp(largest - larger)
        weights = tl.exp(keys - larger[None, :])
        products = product(tl.trans(weights), values, products * rescale[:, None], values.dtype)
        total = total * rescale + tl.sum(weights, 0)
        largest = larger
    store_partial(partial, program, products, total, largest, block_width)


@triton.jit
@no_type_check
def join_kernel(partial, state, splits, block_width: tl.constexpr):
    """The state of a head: S, and the logarithm of the sum of exp(k_jc) over all tokens.

    Bytes: 4 splits (d + 2) d and 4 (d + 1) d for each head, from the L2 cache where they fit.
    Binds: its launch, on sequences of ordinary length. Measured: not yet.
    """
    head = tl.program_id(0)
    products = tl.zeros((block_width, block_width), tl.float32)
    total = tl.zeros((block_width,), tl.float32)
    largest = tl.full((block_width,), float("-inf"), tl.float32)
    for split in range(splits):
        one = state_pointer(partial, head * splits + split, block_width)
        its_largest = load_value_sums(one, block_width)
        larger = tl.maximum(largest, its_largest)
        rescale, its_rescale = tl.exp(largest - larger), tl.exp(its_largest - larger)
        products *= rescale[:, None]
        products += load_products(one, block_width) * its_rescale[:, None]
        total = total * rescale + load_feature_sums(one, block_width) * its_rescale
        largest = larger
    unused = tl.zeros((block_width,), tl.float32)
    pooled = products / total[:, None]
    store_partial(state, head, pooled, largest + tl.log(total), unused, block_width)


@triton.jit
@no_type_check
def channel_softmax(
    pointer,
    first,
    last,
    stride,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """[block_tokens, block_width], float32: softmax over the channels of each token."""
    x = load_rows(pointer, first, last, stride, head_dim, block_tokens, block_width)
    real = (tl.arange(0, block_width) < head_dim)[None, :]
    x = tl.where(real, x.to(tl.float32), float("-inf"))
    weights = tl.exp(x - tl.max(x, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
@no_type_check
def read_kernel(
    q,
    state,
    out,
    q_batch,
    q_head,
    q_token,
    out_batch,
    out_head,
    out_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    factor,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """The output of each program's tokens.

    Bytes: q and out once, 2 N C e; a state, 4 d^2, for each program. Floor: bytes / copy bandwidth.
    Binds: memory; 2 d^2 FLOPs and d exp a token and head for 2 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(head, heads, q_batch, q_head)
    out += head_offset(head, heads, out_batch, out_head)
    pooled = load_products(state_pointer(state, head, block_width), block_width) * factor
    pooled = pooled.to(q.dtype.element_ty)
    for start in range(first, last, block_tokens):
        weights = channel_softmax(q, start, last, q_token, head_dim, block_tokens, block_width)
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        result = product(weights, pooled, nothing, pooled.dtype)
        store_rows(out, result, start, last, out_token, head_dim, block_tokens, block_width)


@triton.jit
@no_type_check
def read_backward_kernel(
    q,
    upstream,
    state,
    dq,
    partial,
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
    factor,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Gradient of the queries, and partial gradients of the state without the factor f.

    Bytes: q, the output's gradient and dq once, 3 N C e; a state and a partial gradient, each
    4 (d + 2) d, for each program. Floor: bytes / copy bandwidth. Binds: memory; 4 d^2 FLOPs and d
    exp a token and head for 3 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(head, heads, q_batch, q_head)
    upstream += head_offset(head, heads, upstream_batch, upstream_head)
    dq += head_offset(head, heads, dq_batch, dq_head)
    pooled = load_products(state_pointer(state, head, block_width), block_width) * factor
    pooled = pooled.to(q.dtype.element_ty)
    d_state = tl.zeros((block_width, block_width), tl.float32)
    for start in range(first, last, block_tokens):
        weights = channel_softmax(q, start, last, q_token, head_dim, block_tokens, block_width)
        gradient = load_rows(
            upstream, start, last, upstream_token, head_dim, block_tokens, block_width
        )
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        d_weights = product(gradient, tl.trans(pooled), nothing, gradient.dtype)
        along = tl.sum(d_weights * weights, 1)[:, None]
        d_queries = weights * (d_weights - along)
        store_rows(dq, d_queries, start, last, dq_token, head_dim, block_tokens, block_width)
        d_state = product(tl.trans(weights), gradient, d_state, gradient.dtype)
    unused = tl.zeros((block_width,), tl.float32)
    store_partial(partial, program, d_state, unused, unused, block_width)


@triton.jit
@no_type_check
def pool_backward_kernel(
    k,
    v,
    state,
    d_state,
    dk,
    dv,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    dk_batch,
    dk_head,
    dk_token,
    dv_batch,
    dv_head,
    dv_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    root,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
    state_stays: tl.constexpr,
):
    """Gradients of keys and values from that of the state, which comes divided by `root`, sqrt(N).

    Bytes: k, v, dk and dv once, 4 N C e; two states, 8 (d + 2) d, for each program. Floor: bytes /
    copy bandwidth. Binds: memory; 4 d^2 FLOPs and d exp a token and head for 4 d e bytes. Measured:
    not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    k += head_offset(head, heads, k_batch, k_head)
    v += head_offset(head, heads, v_batch, v_head)
    dk += head_offset(head, heads, dk_batch, dk_head)
    dv += head_offset(head, heads, dv_batch, dv_head)
    state = state_pointer(state, head, block_width)
    d_state = state_pointer(d_state, head, block_width)
    log_total = load_feature_sums(state, block_width)
    d_pooled = load_products(d_state, block_width)
    along = tl.sum(d_pooled * load_products(state, block_width), 1)
    d_pooled = d_pooled.to(k.dtype.element_ty)
    for start in range(first, last, block_tokens):
        keys = load_rows(k, start, last, k_token, head_dim, block_tokens, block_width)
        values = load_rows(v, start, last, v_token, head_dim, block_tokens, block_width)
        weights = tl.exp(keys.to(tl.float32) - log_total[None, :]) * root
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        if not state_stays:
            d_pooled = load_products(d_state, block_width)
        d_weights = product(values, tl.trans(d_pooled), nothing, values.dtype)
        d_keys = weights * (d_weights - along[None, :])
        d_values = product(weights, d_pooled, nothing, values.dtype)
        store_rows(dk, d_keys, start, last, dk_token, head_dim, block_tokens, block_width)
        store_rows(dv, d_values, start, last, dv_token, head_dim, block_tokens, block_width)
