"""Pieces of the kernels of Performer: random features formed on chip, and never stored.

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

from attention_impls.triton_parts.tiles import load_rows


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
def load_pulls(
    out, upstream, denominators, start, tokens, out_token, upstream_token,
    head_dim: tl.constexpr, block_tokens: tl.constexpr, block_width: tl.constexpr,
):  # fmt: skip
    """Return a_i [block_tokens, block_width] and b_i [block_tokens] of a tile: what pulls at S, z.

    a_i = g_i / denominator_i, b_i = -(g_i . out_i) / denominator_i; g the gradient of the output.
    """
    token = start + tl.arange(0, block_tokens)
    read = load_rows(out, start, tokens, out_token, head_dim, block_tokens, block_width)
    pull = load_rows(upstream, start, tokens, upstream_token, head_dim, block_tokens, block_width)
    pull = pull.to(tl.float32)
    below = tl.load(denominators + token, mask=token < tokens, other=1.0)
    of_below = -tl.sum(pull * read.to(tl.float32), axis=1) / below
    return pull / below[:, None], of_below
