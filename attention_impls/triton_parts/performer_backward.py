"""Kernels of Performer, backward: gradients of the queries, of the state, and of keys and values.

Symbols as in `performer_features`; x' is the gradient of x, g that of the output.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.performer_features import (
    half_squares,
    load_projection,
    load_pulls,
    projected,
)
from attention_impls.triton_parts.tiles import head_offset, load_rows, store_rows


@triton.jit
@no_type_check
def query_backward_kernel(
    q,
    out,
    upstream,
    projection,
    state,
    totals,
    most_of_row,
    denominators,
    of_q,
    q_batch,
    q_head,
    q_token,
    out_batch,
    out_head,
    out_token,
    upstream_batch,
    upstream_head,
    upstream_token,
    of_q_batch,
    of_q_head,
    of_q_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    features,
    blocks,
    scale,
    head_dim: tl.constexpr,
    block_features: tl.constexpr,
    block_width: tl.constexpr,
    block_tokens: tl.constexpr,
    exact: tl.constexpr,
    rough: tl.constexpr,
):
    """Gradient of the queries; c_i counts as a constant, as in the reference.

    With a_i and b_i as in `load_pulls`:
    p'_if = (phi(q_i)_f - e) (a_i . S_f + b_i z_f), q'_i = c sum_f p'_if w_f - c^2 q_i sum_f p'_if.

    Bytes: q, out, g read, q' written: 4 N d b a head. Floor: that / copy bandwidth. Binds: 6 N r d
    FLOPs, each several times on tensor cores.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    q += head_offset(matrix, heads, q_batch, q_head)
    out += head_offset(matrix, heads, out_batch, out_head)
    upstream += head_offset(matrix, heads, upstream_batch, upstream_head)
    of_q += head_offset(matrix, heads, of_q_batch, of_q_head)
    place = matrix.to(tl.int64)
    state += place * blocks * block_features * head_dim
    totals += place * blocks * block_features
    feature = tl.arange(0, block_features)
    none = tl.zeros((block_tokens, block_features), tl.float32)
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        token = start + tl.arange(0, block_tokens)
        inside = token < tokens
        rows = load_rows(q, start, tokens, q_token, head_dim, block_tokens, block_width)
        rows = rows.to(tl.float32)
        pull, of_below = load_pulls(
            out, upstream, denominators + place * tokens, start, tokens, out_token, upstream_token,
            head_dim, block_tokens, block_width,
        )  # fmt: skip
        most = tl.load(most_of_row + place * tokens + token, mask=inside, other=0.0)
        half = half_squares(rows, scale)
        gradient = tl.zeros((block_tokens, block_width), tl.float32)
        drawn_sum = tl.zeros((block_tokens,), tl.float32)
        for block in range(blocks):
            drawn = load_projection(
                projection, block, features, head_dim, block_features, block_width
            )
            phi = tl.exp(projected(rows, drawn, scale, exact) - (half + most)[:, None])
            felt = inside[:, None] & (block * block_features + feature < features)[None, :]
            phi = tl.where(felt, phi, 0.0)
            held = load_rows(
                state, block * block_features, features, head_dim, head_dim, block_features,
                block_width,
            )  # fmt: skip
            total = tl.load(totals + block * block_features + feature)
            of_phi = tl.dot(pull, tl.trans(held), none, input_precision=rough)
            of_phi = phi * (of_phi + of_below[:, None] * total[None, :])
            gradient = tl.dot(of_phi, drawn, gradient, input_precision=rough)
            drawn_sum += tl.sum(of_phi, axis=1)
        gradient = gradient * scale - rows * (drawn_sum * (scale * scale))[:, None]
        store_rows(of_q, gradient, start, tokens, of_q_token, head_dim, block_tokens, block_width)


@triton.jit
@no_type_check
def state_backward_kernel(
    q,
    out,
    upstream,
    projection,
    most_of_row,
    denominators,
    partial,
    partial_sums,
    q_batch,
    q_head,
    q_token,
    out_batch,
    out_head,
    out_token,
    upstream_batch,
    upstream_head,
    upstream_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    features,
    blocks,
    scale,
    epsilon,
    head_dim: tl.constexpr,
    block_features: tl.constexpr,
    block_width: tl.constexpr,
    block_tokens: tl.constexpr,
    exact: tl.constexpr,
    rough: tl.constexpr,
):
    """A run's share of S'_f = sum_i phi(q_i)_f a_i and z'_f = sum_i phi(q_i)_f b_i, one block.

    Bytes: q, out and g once if the blocks of features share them in the caches: 3 N d b a head.
    Floor: that / copy bandwidth. Binds: 4 N r d FLOPs, each several times on tensor cores.
    Measured: not yet.
    """
    program = tl.program_id(0)
    block = program % blocks
    part = program // blocks % splits
    matrix = program // blocks // splits
    q += head_offset(matrix, heads, q_batch, q_head)
    out += head_offset(matrix, heads, out_batch, out_head)
    upstream += head_offset(matrix, heads, upstream_batch, upstream_head)
    drawn = load_projection(projection, block, features, head_dim, block_features, block_width)
    feature = tl.arange(0, block_features)
    real = block * block_features + feature < features
    of_state = tl.zeros((block_features, block_width), tl.float32)
    of_totals = tl.zeros((block_features,), tl.float32)
    rows_of_head = matrix.to(tl.int64) * tokens
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        token = start + tl.arange(0, block_tokens)
        inside = token < tokens
        rows = load_rows(q, start, tokens, q_token, head_dim, block_tokens, block_width)
        rows = rows.to(tl.float32)
        pull, of_below = load_pulls(
            out, upstream, denominators + rows_of_head, start, tokens, out_token, upstream_token,
            head_dim, block_tokens, block_width,
        )  # fmt: skip
        most = tl.load(most_of_row + rows_of_head + token, mask=inside, other=0.0)
        exponent = projected(rows, drawn, scale, exact)
        phi = tl.exp(exponent - (half_squares(rows, scale) + most)[:, None]) + epsilon
        phi = tl.where(inside[:, None] & real[None, :], phi, 0.0)
        of_state = tl.dot(tl.trans(phi), pull, of_state, input_precision=rough)
        of_totals += tl.sum(phi * of_below[:, None], axis=0)
    place = ((matrix * splits + part).to(tl.int64) * blocks + block) * block_features
    store_rows(
        partial + place * head_dim, of_state, 0, block_features, head_dim, head_dim,
        block_features, block_width,
    )  # fmt: skip
    tl.store(partial_sums + place + feature, of_totals)


@triton.jit
@no_type_check
def key_backward_kernel(
    k,
    v,
    projection,
    of_state,
    of_totals,
    most_of_head,
    of_k,
    of_v,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    of_k_batch,
    of_k_head,
    of_k_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    features,
    blocks,
    scale,
    epsilon,
    head_dim: tl.constexpr,
    block_features: tl.constexpr,
    block_width: tl.constexpr,
    block_tokens: tl.constexpr,
    exact: tl.constexpr,
    rough: tl.constexpr,
):
    """Gradients of keys and values; C counts as a constant, as in the reference.

    p'_jf = (phi(k_j)_f - e) (v_j . S'_f + z'_f), k'_j = c sum_f p'_jf w_f - c^2 k_j sum_f p'_jf,
    v'_j = sum_f phi(k_j)_f S'_f.

    Bytes: k and v read, k' and v' written: 4 N d b a head. Floor: that / copy bandwidth. Binds:
    8 N r d FLOPs, each several times on tensor cores.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    k += head_offset(matrix, heads, k_batch, k_head)
    v += head_offset(matrix, heads, v_batch, v_head)
    of_k += head_offset(matrix, heads, of_k_batch, of_k_head)
    of_v += head_offset(matrix, heads, of_k_batch, of_k_head)
    place = matrix.to(tl.int64)
    of_state += place * blocks * block_features * head_dim
    of_totals += place * blocks * block_features
    most = tl.load(most_of_head + place)
    feature = tl.arange(0, block_features)
    none = tl.zeros((block_tokens, block_features), tl.float32)
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        inside = start + tl.arange(0, block_tokens) < tokens
        keys = load_rows(k, start, tokens, k_token, head_dim, block_tokens, block_width)
        keys = keys.to(tl.float32)
        values = load_rows(v, start, tokens, v_token, head_dim, block_tokens, block_width)
        values = values.to(tl.float32)
        half = half_squares(keys, scale)
        of_keys = tl.zeros((block_tokens, block_width), tl.float32)
        of_values = tl.zeros((block_tokens, block_width), tl.float32)
        drawn_sum = tl.zeros((block_tokens,), tl.float32)
        for block in range(blocks):
            drawn = load_projection(
                projection, block, features, head_dim, block_features, block_width
            )
            phi = tl.exp(projected(keys, drawn, scale, exact) - (half + most)[:, None])
            felt = inside[:, None] & (block * block_features + feature < features)[None, :]
            phi = tl.where(felt, phi, 0.0)
            pulled = load_rows(
                of_state, block * block_features, features, head_dim, head_dim, block_features,
                block_width,
            )  # fmt: skip
            total = tl.load(of_totals + block * block_features + feature)
            of_phi = tl.dot(values, tl.trans(pulled), none, input_precision=rough)
            of_phi = phi * (of_phi + total[None, :])
            of_keys = tl.dot(of_phi, drawn, of_keys, input_precision=rough)
            drawn_sum += tl.sum(of_phi, axis=1)
            phi = tl.where(felt, phi + epsilon, 0.0)
            of_values = tl.dot(phi, pulled, of_values, input_precision=rough)
        of_keys = of_keys * scale - keys * (drawn_sum * (scale * scale))[:, None]
        store_rows(of_k, of_keys, start, tokens, of_k_token, head_dim, block_tokens, block_width)
        store_rows(of_v, of_values, start, tokens, of_k_token, head_dim, block_tokens, block_width)
