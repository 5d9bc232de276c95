"""Kernels of Performer: random features formed on chip, block by block, and never stored.

Symbols: q_n, k_n, v_n queries, keys, values [N, d] of a head, W [r, d] the drawn projection,
c = d^(-1/4), h(x) = c^2 |x|^2 / 2, e the constant added to each feature;

    phi(k_j)_f = exp(c w_f . k_j - h(k_j) - C) + e,    C: the largest c w_f . k_j of the head
    phi(q_i)_f = exp(c w_f . q_i - h(q_i) - c_i) + e,  c_i: the largest c w_f . q_i of the row
    S_f = sum_j phi(k_j)_f v_j,   z_f = sum_j phi(k_j)_f,   out_i = phi(q_i) . S / (phi(q_i) . z)

Both largest values are found while summing: what is summed so far is shrunk when a larger one
comes, as in a running softmax, and so no pass over the tokens is spent on them. A program is one
head of one sequence, one run of its tokens and, where a state is summed, one block of features.
Exponents take products of float32 (`exact`: three products on tensor cores), sums over features
and tokens those of `rough`. b: bytes of a number of the tokens' tensors.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.tiles import head_offset, load_rows, store_rows


@triton.jit
@no_type_check
def projected(rows, projection, scale, precision: tl.constexpr):
    """Return c w_f . x_n of a tile: [block_tokens, block_features]."""
    none = tl.zeros((rows.shape[0], projection.shape[0]), tl.float32)
    return tl.dot(rows, tl.trans(projection), none, input_precision=precision) * scale


@triton.jit
@no_type_check
def half_squares(rows, scale):
    """c^2 |x_n|^2 / 2 of a tile: [block_tokens]."""
    return tl.sum(rows * rows, axis=1) * (scale * scale / 2)


@triton.jit
@no_type_check
def load_projection(
    pointer, block, features, head_dim: tl.constexpr, block_features: tl.constexpr,
    block_width: tl.constexpr,
):  # fmt: skip
    """A block of rows of W, float32, zeros beyond."""
    first = block * block_features
    rows = load_rows(pointer, first, features, head_dim, head_dim, block_features, block_width)
    return rows.to(tl.float32)


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

    With a_i = g_i / denominator_i and b_i = -(g_i . out_i) / denominator_i:
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
        read = load_rows(out, start, tokens, out_token, head_dim, block_tokens, block_width)
        pull = load_rows(
            upstream, start, tokens, upstream_token, head_dim, block_tokens, block_width
        ).to(tl.float32)
        below = tl.load(denominators + place * tokens + token, mask=inside, other=1.0)
        most = tl.load(most_of_row + place * tokens + token, mask=inside, other=0.0)
        of_below = -tl.sum(pull * read.to(tl.float32), axis=1) / below
        pull = pull / below[:, None]
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
        read = load_rows(out, start, tokens, out_token, head_dim, block_tokens, block_width)
        pull = load_rows(
            upstream, start, tokens, upstream_token, head_dim, block_tokens, block_width
        ).to(tl.float32)
        below = tl.load(denominators + rows_of_head + token, mask=inside, other=1.0)
        most = tl.load(most_of_row + rows_of_head + token, mask=inside, other=0.0)
        of_below = -tl.sum(pull * read.to(tl.float32), axis=1) / below
        exponent = projected(rows, drawn, scale, exact)
        phi = tl.exp(exponent - (half_squares(rows, scale) + most)[:, None]) + epsilon
        phi = tl.where(inside[:, None] & real[None, :], phi, 0.0)
        of_state = tl.dot(tl.trans(phi), pull / below[:, None], of_state, input_precision=rough)
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
