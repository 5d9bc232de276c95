"""Kernels of centred linear attention, forward and backward. Symbols as in `centred`."""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.feature_maps import load_features, slopes
from attention_impls.triton_parts.local import convolved, convolved_backward
from attention_impls.triton_parts.state import (
    load_feature_sums,
    load_products,
    load_value_sums,
    state_pointer,
    store_partial,
)
from attention_impls.triton_parts.tiles import head_offset, load_rows, product, store_rows


@triton.jit
@no_type_check
def centred_state(pointer, scale, block_width: tl.constexpr):
    """S and v_mean, from the means at `pointer`."""
    mean_k = load_feature_sums(pointer, block_width)
    mean_v = load_value_sums(pointer, block_width)
    covariance = load_products(pointer, block_width) - mean_k[:, None] * mean_v[None, :]
    return covariance * scale, mean_v


@triton.jit
@no_type_check
def centred_apply_kernel(
    q,
    v,
    state,
    filters,
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
    extra_tokens,
    scale,
    side: tl.constexpr,
    feature_map: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """The output of each program's tokens; `side` 0: without the residual.

    Bytes: q and out once, and v, which the state has read before, again: 3 N C e; a state,
    4 (d + 2) d, for each program. Floor: bytes / copy bandwidth. With the state's 2 N C e the
    forward pass moves 5 N C e where its inputs and output are 4: at most 80 % of the floor, unless
    v stays in the L2 cache. Binds: memory, and next to it the caches, which serve nine taps of v.
    Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(head, heads, q_batch, q_head)
    v += head_offset(head, heads, v_batch, v_head)
    out += head_offset(head, heads, out_batch, out_head)
    filters += head * (head_dim * side * side)
    covariance, mean_v = centred_state(state_pointer(state, head, block_width), scale, block_width)
    covariance = covariance.to(q.dtype.element_ty)
    for start in range(first, last, block_tokens):
        _, queries = load_features(
            q, start, last, q_token, head_dim, block_tokens, block_width, feature_map
        )
        result = tl.zeros((block_tokens, block_width), tl.float32) + mean_v[None, :]
        result = product(queries, covariance, result, covariance.dtype)
        if side > 0:
            result = convolved(
                result, v, filters, start, v_token, rows_of_grid, columns, extra_tokens,
                side, head_dim, block_tokens, block_width,
            )  # fmt: skip
        store_rows(out, result, start, last, out_token, head_dim, block_tokens, block_width)


@triton.jit
@no_type_check
def centred_apply_backward_kernel(
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
    scale,
    feature_map: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Gradient of the queries; partial sums of phi(q_i) g_i^T and g_i.

    Bytes: q, the output's gradient and dq once, 3 N C e; a state and a partial gradient, each
    4 (d + 2) d, for each program. Floor: bytes / copy bandwidth. Binds: memory; 4 d^2 FLOPs a token
    and head for 3 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(head, heads, q_batch, q_head)
    upstream += head_offset(head, heads, upstream_batch, upstream_head)
    dq += head_offset(head, heads, dq_batch, dq_head)
    covariance, _ = centred_state(state_pointer(state, head, block_width), scale, block_width)
    covariance = covariance.to(q.dtype.element_ty)
    d_state = tl.zeros((block_width, block_width), tl.float32)
    total = tl.zeros((block_width,), tl.float32)
    for start in range(first, last, block_tokens):
        x, queries = load_features(
            q, start, last, q_token, head_dim, block_tokens, block_width, feature_map
        )
        gradient = load_rows(
            upstream, start, last, upstream_token, head_dim, block_tokens, block_width
        )
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        d_queries = product(gradient, tl.trans(covariance), nothing, gradient.dtype)
        d_queries *= slopes(x, feature_map)
        store_rows(dq, d_queries, start, last, dq_token, head_dim, block_tokens, block_width)
        d_state = product(tl.trans(queries), gradient, d_state, gradient.dtype)
        total += tl.sum(gradient.to(tl.float32), 0)
    unused = tl.zeros((block_width,), tl.float32)
    store_partial(partial, program, d_state, unused, total, block_width)


@triton.jit
@no_type_check
def centred_accumulate_backward_kernel(
    k,
    v,
    upstream,
    state,
    d_state,
    filters,
    dk,
    dv,
    d_filters,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    upstream_batch,
    upstream_head,
    upstream_token,
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
    rows_of_grid,
    columns,
    extra_tokens,
    scale,
    root,
    side: tl.constexpr,
    taps: tl.constexpr,
    feature_map: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
    state_stays: tl.constexpr,
):
    """Gradients of keys and values, and partial ones of the filters; `root` is 1 / sqrt(N).

    Bytes: k, v, dk and dv once, and the output's gradient again for its neighbours, 5 N C e; two
    states, 8 (d + 2) d, for each program. Floor: bytes / copy bandwidth. With the queries' pass
    backward moves 8 N C e where inputs and outputs are 7. Binds: memory, and next to it the caches,
    which serve nine taps of the gradient. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    k += head_offset(head, heads, k_batch, k_head)
    v += head_offset(head, heads, v_batch, v_head)
    upstream += head_offset(head, heads, upstream_batch, upstream_head)
    dk += head_offset(head, heads, dk_batch, dk_head)
    dv += head_offset(head, heads, dv_batch, dv_head)
    filters += head * (head_dim * side * side)
    state = state_pointer(state, head, block_width)
    d_state = state_pointer(d_state, head, block_width)
    mean_k = load_feature_sums(state, block_width)
    mean_v = load_value_sums(state, block_width)
    mean_gradient = load_value_sums(d_state, block_width) * root
    if state_stays:
        d_products = (load_products(d_state, block_width) * scale).to(k.dtype.element_ty)
    d_taps = tl.zeros((taps, block_width), tl.float32)
    for start in range(first, last, block_tokens):
        x, keys = load_features(
            k, start, last, k_token, head_dim, block_tokens, block_width, feature_map
        )
        values = load_rows(v, start, last, v_token, head_dim, block_tokens, block_width)
        exact = values.to(tl.float32)
        if not state_stays:
            d_products = load_products(d_state, block_width) * scale
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        d_keys = product(exact - mean_v[None, :], tl.trans(d_products), nothing, values.dtype)
        d_keys *= slopes(x, feature_map) * root
        d_values = product(keys - mean_k[None, :], d_products, nothing, values.dtype)
        d_values = d_values * root + mean_gradient[None, :]
        if side > 0:
            d_values, d_taps = convolved_backward(
                d_values, d_taps, exact, upstream, filters, start, upstream_token, rows_of_grid,
                columns, extra_tokens, side, taps, head_dim, block_tokens, block_width,
            )  # fmt: skip
        store_rows(dk, d_keys, start, last, dk_token, head_dim, block_tokens, block_width)
        store_rows(dv, d_values, start, last, dv_token, head_dim, block_tokens, block_width)
    if side > 0:
        tap, channel = tl.arange(0, taps), tl.arange(0, block_width)
        d_filters += program.to(tl.int64) * (taps * block_width)
        tl.store(d_filters + tap[:, None] * block_width + channel[None, :], d_taps)
