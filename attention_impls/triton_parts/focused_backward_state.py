"""Kernels of focused linear attention, backward: gradients of the state, the values, the gains.

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
    store_column,
)
from attention_impls.triton_parts.focused_forward import focused_queries
from attention_impls.triton_parts.local import convolved_backward
from attention_impls.triton_parts.state import (
    load_feature_sums,
    load_products,
    state_pointer,
    store_partial,
)
from attention_impls.triton_parts.tiles import head_offset, load_rows, product, row_mask, store_rows


@triton.jit
@no_type_check
def queries_backward(
    a, inside, gain, gradient, mean_kv, mean_k, epsilon, exponent: tl.constexpr,
    block_tokens: tl.constexpr, block_width: tl.constexpr,
):  # fmt: skip
    """Return p_i, t_i, the denominators and ds(q_i)."""
    normalised, denominator = focused_queries(a, inside, gain, mean_k, epsilon, exponent)
    nothing = tl.zeros((block_tokens, block_width), tl.float32)
    d_normalised = product(gradient, tl.trans(mean_kv), nothing, gradient.dtype)
    along = tl.sum(d_normalised * normalised, 1)
    d_sharp = (d_normalised - along[:, None] * mean_k[None, :]) / denominator[:, None]
    return normalised, along, denominator, d_sharp


@triton.jit
@no_type_check
def focused_state_gradient_kernel(
    q,
    upstream,
    inverse,
    squares,
    powers,
    state,
    partial,
    d_gains,
    q_batch,
    q_head,
    q_token,
    upstream_batch,
    upstream_head,
    upstream_token,
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
    """Partial dS and dk_mean, the sums of g (for the filters' bias), and each head's dG(q_i).

    Bytes: q and the output's gradient once, 2 N C e, and 4 bytes a token and head. Floor: bytes /
    copy bandwidth. Binds: memory; 4 d^2 FLOPs a token and head for 2 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    sequence = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(sequence, heads, q_batch, q_head)
    upstream += head_offset(sequence, heads, upstream_batch, upstream_head)
    inverse += (sequence % heads) * head_dim
    token_norms = (sequence // heads).to(tl.int64) * tokens
    own = state_pointer(state, sequence, block_width)
    mean_kv = load_products(own, block_width).to(q.dtype.element_ty)
    mean_k = load_feature_sums(own, block_width)
    d_state = tl.zeros((block_width, block_width), tl.float32)
    d_mean_k = tl.zeros((block_width,), tl.float32)
    total = tl.zeros((block_width,), tl.float32)
    for start in range(first, last, block_tokens):
        a, _ = load_rectified(
            q, q, inverse, start, last, q_token, 0, False, head_dim, block_tokens, block_width
        )
        gradient = load_rows(
            upstream, start, last, upstream_token, head_dim, block_tokens, block_width
        )
        gain = gain_of(
            load_column(squares + token_norms, start, last, block_tokens),
            load_column(powers + token_norms, start, last, block_tokens),
        )
        inside = row_mask(start, last, head_dim, block_tokens, block_width)
        normalised, along, denominator, _ = queries_backward(
            a, inside, gain, gradient, mean_kv, mean_k, epsilon, exponent, block_tokens, block_width
        )
        d_gain = along * epsilon / (denominator * gain * gain)
        store_column(d_gains + sequence.to(tl.int64) * tokens, d_gain, start, last, block_tokens)
        d_state = product(tl.trans(normalised), gradient, d_state, gradient.dtype)
        d_mean_k -= tl.sum(along[:, None] * normalised, 0)
        total += tl.sum(gradient.to(tl.float32), 0)
    store_partial(partial, program, d_state, d_mean_k, total, block_width)


@triton.jit
@no_type_check
def focused_values_gradient_kernel(
    k,
    v,
    upstream,
    position,
    inverse,
    squares,
    powers,
    d_state,
    filters,
    dv,
    d_gains,
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
    dv_batch,
    dv_head,
    dv_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    rows_of_grid,
    columns,
    root,
    side: tl.constexpr,
    taps: tl.constexpr,
    exponent: tl.constexpr,
    has_position: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
    state_stays: tl.constexpr,
):
    """Gradient of the values, partial ones of the filters, and each head's dG(k_j).

    Bytes: k, v, the output's gradient again for its neighbours, and dv, 4 N C e, and 4 bytes a
    token and head. Floor: bytes / copy bandwidth. Binds: memory, and next to it the caches, which
    serve side^2 taps. Measured: not yet.
    """
    program = tl.program_id(0)
    sequence = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    head = sequence % heads
    k += head_offset(sequence, heads, k_batch, k_head)
    v += head_offset(sequence, heads, v_batch, v_head)
    upstream += head_offset(sequence, heads, upstream_batch, upstream_head)
    dv += head_offset(sequence, heads, dv_batch, dv_head)
    token_norms = (sequence // heads).to(tl.int64) * tokens
    own = state_pointer(d_state, sequence, block_width)
    if state_stays:
        d_products = load_products(own, block_width).to(k.dtype.element_ty)
    d_sum_k = load_feature_sums(own, block_width)
    d_taps = tl.zeros((taps, block_width), tl.float32)
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
        sharp = tl.where(inside, power(a, exponent), 0.0)
        values = load_rows(v, start, last, v_token, head_dim, block_tokens, block_width)
        if not state_stays:
            d_products = load_products(own, block_width)
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        d_keys = product(values, tl.trans(d_products), nothing, values.dtype) + d_sum_k[None, :]
        d_gain = tl.sum(d_keys * sharp, 1) * root
        store_column(d_gains + sequence.to(tl.int64) * tokens, d_gain, start, last, block_tokens)
        d_values = product(sharp * gain[:, None], d_products, nothing, values.dtype) * root
        if side > 0:
            d_values, d_taps = convolved_backward(
                d_values, d_taps, values.to(tl.float32), upstream, filters, start, upstream_token,
                rows_of_grid, columns, 0, side, taps, head_dim, block_tokens, block_width,
            )  # fmt: skip
        store_rows(dv, d_values, start, last, dv_token, head_dim, block_tokens, block_width)
    if side > 0:
        tap, channel = tl.arange(0, taps), tl.arange(0, block_width)
        d_filters += program.to(tl.int64) * (taps * block_width)
        tl.store(d_filters + tap[:, None] * block_width + channel[None, :], d_taps)
