"""Kernels of cross-covariance attention, forward and backward. Symbols as in `covariance`."""

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
from attention_impls.triton_parts.tiles import head_offset, load_rows, product, store_rows


@triton.jit
@no_type_check
def covariance_kernel(
    q,
    k,
    partial,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Partial sums of q_i k_i^T, q_i^2 and k_i^2.

    Bytes: two tensors once, 2 N C e; partial states, 4 (d + 2) d for each program. Floor: bytes /
    copy bandwidth. Binds: memory; 2 d^2 FLOPs a token and head for 2 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(head, heads, q_batch, q_head)
    k += head_offset(head, heads, k_batch, k_head)
    products = tl.zeros((block_width, block_width), tl.float32)
    squares_q = tl.zeros((block_width,), tl.float32)
    squares_k = tl.zeros((block_width,), tl.float32)
    for start in range(first, last, block_tokens):
        queries = load_rows(q, start, last, q_token, head_dim, block_tokens, block_width)
        keys = load_rows(k, start, last, k_token, head_dim, block_tokens, block_width)
        products = product(tl.trans(queries), keys, products, keys.dtype)
        exact_q, exact_k = queries.to(tl.float32), keys.to(tl.float32)
        squares_q += tl.sum(exact_q * exact_q, 0)
        squares_k += tl.sum(exact_k * exact_k, 0)
    store_partial(partial, program, products, squares_q, squares_k, block_width)


@triton.jit
@no_type_check
def inverse_norms(squares, smallest):
    """1 / root of the mean squares, at most 1 / smallest."""
    return 1.0 / tl.maximum(tl.sqrt(squares), smallest)


@triton.jit
@no_type_check
def weights_kernel(
    state,
    temperature,
    weights,
    heads,
    smallest,
    head_dim: tl.constexpr,
    block_width: tl.constexpr,
):
    """A of each head, zeros beyond its channels.

    Bytes: 8 d^2 for each head, from the L2 cache. Binds: its launch. Measured: not yet.
    """
    head = tl.program_id(0)
    state = state_pointer(state, head, block_width)
    inverse_q = inverse_norms(load_feature_sums(state, block_width), smallest)
    inverse_k = inverse_norms(load_value_sums(state, block_width), smallest)
    tau = tl.load(temperature + head % heads).to(tl.float32)
    scores = load_products(state, block_width) * inverse_q[:, None] * inverse_k[None, :] * tau
    real = tl.arange(0, block_width) < head_dim
    scores = tl.where(real[None, :], scores, float("-inf"))
    exponentials = tl.exp(scores - tl.max(scores, 1)[:, None])
    result = exponentials / tl.sum(exponentials, 1)[:, None]
    unused = tl.zeros((block_width,), tl.float32)
    result = tl.where(real[:, None], result, 0.0)
    store_partial(weights, head, result, unused, unused, block_width)


@triton.jit
@no_type_check
def weights_backward_kernel(
    state,
    temperature,
    weights,
    d_weights,
    d_state,
    d_temperature,
    heads,
    smallest,
    block_width: tl.constexpr,
):
    """dG, alpha and beta of each head as a state, and dtau of each head.

    Bytes: 16 d^2 for each head, from the L2 cache. Binds: its launch. Measured: not yet.
    """
    head = tl.program_id(0)
    state = state_pointer(state, head, block_width)
    squares_q = load_feature_sums(state, block_width)
    squares_k = load_value_sums(state, block_width)
    inverse_q = inverse_norms(squares_q, smallest)
    inverse_k = inverse_norms(squares_k, smallest)
    tau = tl.load(temperature + head % heads).to(tl.float32)
    cosines = load_products(state, block_width) * inverse_q[:, None] * inverse_k[None, :]
    attention = load_products(state_pointer(weights, head, block_width), block_width)
    gradient = load_products(state_pointer(d_weights, head, block_width), block_width)
    d_scores = attention * (gradient - tl.sum(gradient * attention, 1)[:, None])
    moved = d_scores * cosines
    tl.store(d_temperature + head, tl.sum(tl.sum(moved, 1), 0))
    moved *= tau
    # a channel whose norm is not above the smallest is divided by a constant
    alpha = tl.where(tl.sqrt(squares_q) < smallest, 0.0, tl.sum(moved, 1) * inverse_q * inverse_q)
    beta = tl.where(tl.sqrt(squares_k) < smallest, 0.0, tl.sum(moved, 0) * inverse_k * inverse_k)
    d_products = d_scores * tau * inverse_q[:, None] * inverse_k[None, :]
    store_partial(d_state, head, d_products, alpha, beta, block_width)


@triton.jit
@no_type_check
def mix_channels_kernel(
    x,
    weights,
    out,
    x_batch,
    x_head,
    x_token,
    out_batch,
    out_head,
    out_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """The output of each program's tokens, A x_i.

    Bytes: x and out once, 2 N C e; A, 4 d^2, for each program. Floor: bytes / copy bandwidth.
    Binds: memory; 2 d^2 FLOPs a token and head for 2 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    x += head_offset(head, heads, x_batch, x_head)
    out += head_offset(head, heads, out_batch, out_head)
    attention = load_products(state_pointer(weights, head, block_width), block_width)
    attention = tl.trans(attention.to(x.dtype.element_ty))
    for start in range(first, last, block_tokens):
        values = load_rows(x, start, last, x_token, head_dim, block_tokens, block_width)
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        result = product(values, attention, nothing, values.dtype)
        store_rows(out, result, start, last, out_token, head_dim, block_tokens, block_width)


@triton.jit
@no_type_check
def read_weights_backward_kernel(
    v,
    upstream,
    weights,
    dv,
    partial,
    v_batch,
    v_head,
    v_token,
    upstream_batch,
    upstream_head,
    upstream_token,
    dv_batch,
    dv_head,
    dv_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Gradient of the values, and partial dA.

    Bytes: v, the output's gradient and dv once, 3 N C e; A and a partial gradient, each
    4 (d + 2) d, for each program. Floor: bytes / copy bandwidth. Binds: memory; 4 d^2 FLOPs a token
    and head for 3 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    v += head_offset(head, heads, v_batch, v_head)
    upstream += head_offset(head, heads, upstream_batch, upstream_head)
    dv += head_offset(head, heads, dv_batch, dv_head)
    attention = load_products(state_pointer(weights, head, block_width), block_width)
    attention = attention.to(v.dtype.element_ty)
    d_weights = tl.zeros((block_width, block_width), tl.float32)
    for start in range(first, last, block_tokens):
        values = load_rows(v, start, last, v_token, head_dim, block_tokens, block_width)
        gradient = load_rows(
            upstream, start, last, upstream_token, head_dim, block_tokens, block_width
        )
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        d_values = product(gradient, attention, nothing, gradient.dtype)
        store_rows(dv, d_values, start, last, dv_token, head_dim, block_tokens, block_width)
        d_weights = product(tl.trans(gradient), values, d_weights, gradient.dtype)
    unused = tl.zeros((block_width,), tl.float32)
    store_partial(partial, program, d_weights, unused, unused, block_width)


@triton.jit
@no_type_check
def covariance_backward_kernel(
    q,
    k,
    d_state,
    dq,
    dk,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    dq_batch,
    dq_head,
    dq_token,
    dk_batch,
    dk_head,
    dk_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    factor,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
    state_stays: tl.constexpr,
):
    """Gradients of queries and keys from dG, alpha and beta, times `factor`.

    Bytes: q, k, dq and dk once, 4 N C e; a state, 4 (d + 2) d, for each program. Floor: bytes /
    copy bandwidth. Binds: memory; 4 d^2 FLOPs a token and head for 4 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(head, heads, q_batch, q_head)
    k += head_offset(head, heads, k_batch, k_head)
    dq += head_offset(head, heads, dq_batch, dq_head)
    dk += head_offset(head, heads, dk_batch, dk_head)
    own = state_pointer(d_state, head, block_width)
    if state_stays:
        d_products = load_products(own, block_width).to(q.dtype.element_ty)
    alpha = load_feature_sums(own, block_width)
    beta = load_value_sums(own, block_width)
    for start in range(first, last, block_tokens):
        queries = load_rows(q, start, last, q_token, head_dim, block_tokens, block_width)
        keys = load_rows(k, start, last, k_token, head_dim, block_tokens, block_width)
        if not state_stays:
            d_products = load_products(own, block_width)
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        d_queries = product(keys, tl.trans(d_products), nothing, keys.dtype)
        d_queries = (d_queries - queries.to(tl.float32) * alpha[None, :]) * factor
        d_keys = product(queries, d_products, nothing, keys.dtype)
        d_keys = (d_keys - keys.to(tl.float32) * beta[None, :]) * factor
        store_rows(dq, d_queries, start, last, dq_token, head_dim, block_tokens, block_width)
        store_rows(dk, d_keys, start, last, dk_token, head_dim, block_tokens, block_width)
