"""Kernels of Performer, forward: the state of the keys, and its read by every query.

Symbols as in `performer_features`.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.performer_features import (
    half_squares,
    load_projection,
    projected,
)
from attention_impls.triton_parts.tiles import head_offset, load_rows, store_rows


@triton.jit
@no_type_check
def key_state_kernel(
    k,
    v,
    projection,
    partial,
    partial_sums,
    partial_most,
    partial_values,
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
    """A run's share of S and z without e for one block of features, its largest exponent, sum v_j.

    Bytes: k and v once if the blocks of features, which run side by side, share them in the caches:
    2 N d b a head. Floor: that / copy bandwidth. Binds: 4 N r d FLOPs, each several times on tensor
    cores; r is d ln d.
    Measured: not yet.
    """
    program = tl.program_id(0)
    block = program % blocks
    part = program // blocks % splits
    matrix = program // blocks // splits
    k += head_offset(matrix, heads, k_batch, k_head)
    v += head_offset(matrix, heads, v_batch, v_head)
    drawn = load_projection(projection, block, features, head_dim, block_features, block_width)
    real = block * block_features + tl.arange(0, block_features) < features
    most = float("-inf")
    total = tl.zeros((block_features, block_width), tl.float32)
    sums = tl.zeros((block_features,), tl.float32)
    values_sum = tl.zeros((block_width,), tl.float32)
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        keys = load_rows(k, start, tokens, k_token, head_dim, block_tokens, block_width)
        keys = keys.to(tl.float32)
        values = load_rows(v, start, tokens, v_token, head_dim, block_tokens, block_width)
        values = values.to(tl.float32)
        exponent = projected(keys, drawn, scale, exact)
        felt = (start + tl.arange(0, block_tokens) < tokens)[:, None] & real[None, :]
        exponent = tl.where(felt, exponent, float("-inf"))
        larger = tl.maximum(most, tl.max(tl.max(exponent, axis=1), axis=0))
        shrunk = tl.exp(most - larger)
        phi = tl.exp(exponent - half_squares(keys, scale)[:, None] - larger)
        total = tl.dot(tl.trans(phi), values, total * shrunk, input_precision=rough)
        sums = sums * shrunk + tl.sum(phi, axis=0)
        values_sum += tl.sum(values, axis=0)
        most = larger
    place = (matrix * splits + part).to(tl.int64)
    feature = tl.arange(0, block_features)
    store_rows(
        partial + (place * blocks + block) * block_features * head_dim, total, 0, block_features,
        head_dim, head_dim, block_features, block_width,
    )  # fmt: skip
    tl.store(partial_sums + (place * blocks + block) * block_features + feature, sums)
    tl.store(partial_most + place * blocks + block, most)
    if block == 0:
        channel = tl.arange(0, block_width)
        tl.store(partial_values + place * head_dim + channel, values_sum, mask=channel < head_dim)


@triton.jit
@no_type_check
def join_kernel(
    partial,
    partial_sums,
    partial_most,
    partial_values,
    state,
    totals,
    most_of_head,
    tokens,
    splits,
    features,
    blocks,
    epsilon,
    head_dim: tl.constexpr,
    block_features: tl.constexpr,
    block_width: tl.constexpr,
    block_partials: tl.constexpr,
):
    """S and z of one head and block of features from the shares of the runs, e added; and C.

    Bytes: runs x r d float32 a head. Floor: none of its own. Binds: the latency of one launch.
    Measured: not yet.
    """
    block = tl.program_id(0) % blocks
    matrix = (tl.program_id(0) // blocks).to(tl.int64)
    number = tl.arange(0, block_partials)
    every = tl.load(
        partial_most + matrix * splits * blocks + number, mask=number < splits * blocks,
        other=float("-inf"),
    )  # fmt: skip
    most = tl.max(every, axis=0)
    feature = tl.arange(0, block_features)
    channel = tl.arange(0, block_width)
    real = block * block_features + feature < features
    total = tl.zeros((block_features, block_width), tl.float32)
    sums = tl.zeros((block_features,), tl.float32)
    values = tl.zeros((block_width,), tl.float32)
    for part in range(splits):
        place = matrix * splits + part
        kept = tl.exp(tl.load(partial_most + place * blocks + block) - most)
        share = load_rows(
            partial + (place * blocks + block) * block_features * head_dim, 0, block_features,
            head_dim, head_dim, block_features, block_width,
        )  # fmt: skip
        total += share * kept
        sums += tl.load(partial_sums + (place * blocks + block) * block_features + feature) * kept
        values += tl.load(
            partial_values + place * head_dim + channel, mask=channel < head_dim, other=0.0
        )
    total = tl.where(real[:, None], total + epsilon * values[None, :], 0.0)
    sums = tl.where(real, sums + epsilon * tokens, 0.0)
    store_rows(
        state + (matrix * blocks + block) * block_features * head_dim, total, 0, block_features,
        head_dim, head_dim, block_features, block_width,
    )  # fmt: skip
    tl.store(totals + (matrix * blocks + block) * block_features + feature, sums)
    tl.store(most_of_head + matrix, most)


@triton.jit
@no_type_check
def read_kernel(
    q,
    projection,
    state,
    totals,
    state_sum,
    totals_sum,
    out,
    most_of_row,
    denominators,
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
    """Out_i = (phi(q_i) . S) / (phi(q_i) . z); c_i and the denominators are kept for backward.

    Bytes: q read, out written: 2 N d b a head. Floor: that / copy bandwidth. Binds: 4 N r d FLOPs,
    each several times on tensor cores.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    q += head_offset(matrix, heads, q_batch, q_head)
    out += head_offset(matrix, heads, out_batch, out_head)
    place = matrix.to(tl.int64)
    state += place * blocks * block_features * head_dim
    totals += place * blocks * block_features
    channel = tl.arange(0, block_width)
    feature = tl.arange(0, block_features)
    added = tl.load(state_sum + place * head_dim + channel, mask=channel < head_dim, other=0.0)
    added_below = tl.load(totals_sum + place)
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        rows = load_rows(q, start, tokens, q_token, head_dim, block_tokens, block_width)
        rows = rows.to(tl.float32)
        half = half_squares(rows, scale)
        most = tl.full((block_tokens,), float("-inf"), tl.float32)
        above = tl.zeros((block_tokens, block_width), tl.float32)
        below = tl.zeros((block_tokens,), tl.float32)
        for block in range(blocks):
            drawn = load_projection(
                projection, block, features, head_dim, block_features, block_width
            )
            exponent = projected(rows, drawn, scale, exact)
            real = block * block_features + feature < features
            exponent = tl.where(real[None, :], exponent, float("-inf"))
            larger = tl.maximum(most, tl.max(exponent, axis=1))
            shrunk = tl.exp(most - larger)
            phi = tl.exp(exponent - (half + larger)[:, None])
            held = load_rows(
                state, block * block_features, features, head_dim, head_dim, block_features,
                block_width,
            )  # fmt: skip
            total = tl.load(totals + block * block_features + feature)
            above = tl.dot(phi, held, above * shrunk[:, None], input_precision=rough)
            below = below * shrunk + tl.sum(phi * total[None, :], axis=1)
            most = larger
        below += epsilon * added_below
        above += epsilon * added[None, :]
        token = start + tl.arange(0, block_tokens)
        inside = token < tokens
        store_rows(
            out, above / below[:, None], start, tokens, out_token, head_dim, block_tokens,
            block_width,
        )  # fmt: skip
        tl.store(most_of_row + place * tokens + token, most, mask=inside)
        tl.store(denominators + place * tokens + token, below, mask=inside)
