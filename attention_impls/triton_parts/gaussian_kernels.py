"""Kernels of Gaussian attention through landmarks that run over all tokens of a head.

Symbols: q_n queries, v_n values, g_n gradients of the output, [N, d] a head; l_m landmarks [m, d];
c = d^(-1/4); affinities K_nm = exp(min(0, c q_n . l_m - c^2 |q_n|^2 / 2 - |l_m|^2 / 2)), formed in
registers, tile by tile, and never stored. Distances cancel and the inverse amplifies, so that no
product takes operands of half precision: `precision` is `tf32x3` (21 bits or more of each factor)
for float32, `bf16x3` (16 bits) for half precision, whose results keep 8 or 11. Sums are float32.

One matrix is one head of one sequence; a program is one matrix and one run of its tokens. Partial
results of the runs are stored, and added up in their order by whoever reads them, so that two calls
give the same bits. e: bytes of a number of the tokens' tensors.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.local_tiles import local_backward, local_sum
from attention_impls.triton_parts.tiles import head_offset, load_rows, store_rows


@triton.jit
@no_type_check
def landmark_rows(
    pointer, matrix, count, head_dim: tl.constexpr, block_landmarks: tl.constexpr,
    block_width: tl.constexpr,
):  # fmt: skip
    """The [m, d] numbers of one matrix as [block_landmarks, block_width], zeros beyond them."""
    pointer += matrix.to(tl.int64) * count * head_dim
    return load_rows(pointer, 0, count, head_dim, head_dim, block_landmarks, block_width)


@triton.jit
@no_type_check
def store_landmark_rows(
    pointer, block, matrix, count, head_dim: tl.constexpr, block_landmarks: tl.constexpr,
    block_width: tl.constexpr,
):  # fmt: skip
    """Write the [m, d] numbers of one matrix."""
    pointer += matrix.to(tl.int64) * count * head_dim
    store_rows(pointer, block, 0, count, head_dim, head_dim, block_landmarks, block_width)


@triton.jit
@no_type_check
def exact_product(a, b, added, precision: tl.constexpr):
    """A b + added in float32, by tensor cores as a sum of three products."""
    return tl.dot(a.to(tl.float32), b.to(tl.float32), added, input_precision=precision)


@triton.jit
@no_type_check
def exponents(points, landmarks, scale, precision: tl.constexpr):
    """Return c q . l - c^2 |q|^2 / 2 - |l|^2 / 2: [tokens, landmarks] of a tile."""
    none = tl.zeros((points.shape[0], landmarks.shape[0]), tl.float32)
    cross = exact_product(points, tl.trans(landmarks * scale), none, precision)
    own = tl.sum(points * points, axis=1) * (scale * scale / 2)
    theirs = tl.sum(landmarks * landmarks, axis=1) / 2
    return cross - own[:, None] - theirs[None, :]


@triton.jit
@no_type_check
def summary_kernel(
    points,
    values,
    landmarks,
    partial,
    points_batch,
    points_head,
    points_token,
    values_batch,
    values_head,
    values_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    count,
    scale,
    head_dim: tl.constexpr,
    block_landmarks: tl.constexpr,
    block_width: tl.constexpr,
    block_tokens: tl.constexpr,
    precision: tl.constexpr,
):
    """Sum over a run of tokens of K_nm v_n^T: [m, d] float32, into `partial`.

    Bytes: q and v once, 2 N d e a head. Floor: that / copy bandwidth. Binds: memory as long as
    4 N m d FLOPs, each three times on tensor cores, take less.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    points += head_offset(matrix, heads, points_batch, points_head)
    values += head_offset(matrix, heads, values_batch, values_head)
    centres = landmark_rows(landmarks, matrix, count, head_dim, block_landmarks, block_width)
    total = tl.zeros((block_landmarks, block_width), tl.float32)
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        q = load_rows(points, start, tokens, points_token, head_dim, block_tokens, block_width)
        v = load_rows(values, start, tokens, values_token, head_dim, block_tokens, block_width)
        exponent = exponents(q.to(tl.float32), centres, scale, precision)
        affinity = tl.exp(tl.minimum(exponent, 0.0))
        total = exact_product(tl.trans(affinity), v, total, precision)
    store_landmark_rows(
        partial, total, tl.program_id(0), count, head_dim, block_landmarks, block_width
    )


@triton.jit
@no_type_check
def apply_kernel(
    points,
    values,
    landmarks,
    weights,
    filters,
    out,
    points_batch,
    points_head,
    points_token,
    values_batch,
    values_head,
    values_token,
    out_batch,
    out_head,
    out_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    count,
    scale,
    height,
    width,
    head_dim: tl.constexpr,
    block_landmarks: tl.constexpr,
    block_width: tl.constexpr,
    block_tokens: tl.constexpr,
    precision: tl.constexpr,
    side: tl.constexpr,
):
    """out_n = sum_m K_nm w_m + sum_p filter_p v_(n+p); w [m, d] float32, one filter a head.

    Bytes: q and out once, and v once if there is a filter (side > 0): 3 N d e a head. Floor: that /
    copy bandwidth. Binds: memory; the neighbours' values come from the caches.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    points += head_offset(matrix, heads, points_batch, points_head)
    values += head_offset(matrix, heads, values_batch, values_head)
    out += head_offset(matrix, heads, out_batch, out_head)
    centres = landmark_rows(landmarks, matrix, count, head_dim, block_landmarks, block_width)
    state = landmark_rows(weights, matrix, count, head_dim, block_landmarks, block_width)
    channel = tl.arange(0, block_width)
    channel_inside = channel < head_dim
    first = part * tokens_per_split
    none = tl.zeros((block_tokens, block_width), tl.float32)
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        token = start + tl.arange(0, block_tokens).to(tl.int64)
        inside = token < tokens
        q = load_rows(points, start, tokens, points_token, head_dim, block_tokens, block_width)
        exponent = exponents(q.to(tl.float32), centres, scale, precision)
        affinity = tl.exp(tl.minimum(exponent, 0.0))
        mixed = exact_product(affinity, state, none, precision)
        if side > 0:
            mixed += local_sum(
                values, filters + matrix % heads * (side * side), 0, token, inside, channel,
                channel_inside, values_token, height, width, side, False,
            )  # fmt: skip
        store_rows(out, mixed, start, tokens, out_token, head_dim, block_tokens, block_width)


@triton.jit
@no_type_check
def tokens_backward_kernel(
    points,
    values,
    upstream,
    landmarks,
    weights,
    summary_gradient,
    filters,
    points_gradient,
    values_gradient,
    landmarks_partial,
    filters_partial,
    points_batch,
    points_head,
    points_token,
    values_batch,
    values_head,
    values_token,
    upstream_batch,
    upstream_head,
    upstream_token,
    gradient_batch,
    gradient_head,
    gradient_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    count,
    scale,
    height,
    width,
    head_dim: tl.constexpr,
    block_landmarks: tl.constexpr,
    block_width: tl.constexpr,
    block_tokens: tl.constexpr,
    precision: tl.constexpr,
    side: tl.constexpr,
    places: tl.constexpr,
):
    """Gradients of queries and values, and a run's share of those of landmarks and filters.

    With w the weights that `apply_kernel` reads and s' the gradient of the summary, [m, d] each:

        K'_nm = g_n . w_m + v_n . s'_m,   E' = K * K' (0 where the exponent was cut off at 0)
        q'_n = c sum_m E'_nm l_m - c^2 q_n sum_m E'_nm
        v'_n = sum_m K_nm s'_m + sum_p filter_p g_(n-p)
        l'_m = c sum_n E'_nm q_n - l_m sum_n E'_nm

    Bytes: q, v, g read, q' and v' written once, 5 N d e a head. Floor: that / copy bandwidth.
    Binds: on tensor cores with float32 by three products, the 10 N m d multiply-add FLOPs come
    close to it.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    points += head_offset(matrix, heads, points_batch, points_head)
    values += head_offset(matrix, heads, values_batch, values_head)
    upstream += head_offset(matrix, heads, upstream_batch, upstream_head)
    points_gradient += head_offset(matrix, heads, gradient_batch, gradient_head)
    values_gradient += head_offset(matrix, heads, gradient_batch, gradient_head)
    centres = landmark_rows(landmarks, matrix, count, head_dim, block_landmarks, block_width)
    state = landmark_rows(weights, matrix, count, head_dim, block_landmarks, block_width)
    pulled = landmark_rows(summary_gradient, matrix, count, head_dim, block_landmarks, block_width)
    channel = tl.arange(0, block_width)
    channel_inside = channel < head_dim
    column_inside = tl.arange(0, block_landmarks) < count
    of_landmarks = tl.zeros((block_landmarks, block_width), tl.float32)
    drawn = tl.zeros((block_landmarks,), tl.float32)
    of_filters = tl.zeros((places, block_width), tl.float32)
    first = part * tokens_per_split
    no_pull = tl.zeros((block_tokens, block_landmarks), tl.float32)
    none = tl.zeros((block_tokens, block_width), tl.float32)
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        token = start + tl.arange(0, block_tokens).to(tl.int64)
        inside = token < tokens
        q = load_rows(points, start, tokens, points_token, head_dim, block_tokens, block_width)
        v = load_rows(values, start, tokens, values_token, head_dim, block_tokens, block_width)
        g = load_rows(upstream, start, tokens, upstream_token, head_dim, block_tokens, block_width)
        q = q.to(tl.float32)
        v = v.to(tl.float32)
        g = g.to(tl.float32)
        exponent = exponents(q, centres, scale, precision)
        affinity = tl.exp(tl.minimum(exponent, 0.0))
        pull = exact_product(g, tl.trans(state), no_pull, precision)
        pull = exact_product(v, tl.trans(pulled), pull, precision)
        felt = (exponent <= 0.0) & inside[:, None] & column_inside[None, :]
        pull = tl.where(felt, pull * affinity, 0.0)
        of_points = exact_product(pull, centres, none, precision) * scale
        of_points -= q * (tl.sum(pull, axis=1) * (scale * scale))[:, None]
        of_values = exact_product(affinity, pulled, none, precision)
        of_landmarks = exact_product(tl.trans(pull), q, of_landmarks, precision)
        drawn += tl.sum(pull, axis=0)
        if side > 0:
            near, share = local_backward(
                upstream, v, filters + matrix % heads * (side * side), 0, token, inside, channel,
                channel_inside, upstream_token, height, width, side, places,
            )  # fmt: skip
            of_values += near
            of_filters += share
        store_rows(
            points_gradient, of_points, start, tokens, gradient_token, head_dim, block_tokens,
            block_width,
        )  # fmt: skip
        store_rows(
            values_gradient, of_values, start, tokens, gradient_token, head_dim, block_tokens,
            block_width,
        )  # fmt: skip
    of_landmarks = of_landmarks * scale - centres * drawn[:, None]
    store_landmark_rows(
        landmarks_partial, of_landmarks, tl.program_id(0), count, head_dim, block_landmarks,
        block_width,
    )  # fmt: skip
    if side > 0:
        number = tl.arange(0, places)
        tl.store(
            filters_partial + tl.program_id(0).to(tl.int64) * (side * side) + number,
            tl.sum(of_filters, axis=1),
            mask=number < side * side,
        )
