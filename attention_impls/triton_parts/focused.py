"""Focused linear attention, its norms over all heads of a token, and its local branch.

    out_i = p_i^T S + L_i,    p_i = s(q_i) / (s(q_i) . k_mean + epsilon / G(q_i)),
    S = (1 / N) sum_j f(k_j) v_j^T,    k_mean = (1 / N) sum_j f(k_j),    f(k) = G(k) s(k),
    s(x) = a^p,    a = inverse (relu(x + position) + 1e-6),    G(x) = ||a|| / ||a^p||

The norms are over all channels C of a token, p_i and S those of one head; L is the convolution of
the values with filters that the heads share. A program has one head, so the norms come from a pass
of their own, and so do, backward, the gradients of the gains. Backward, with g the gradient of the
output, the dots sums over the channels of a head, those over heads written as such:

    dp_i = S g_i,    t_i = dp_i . p_i,    ds(q_i) = (dp_i - t_i k_mean) / denominator_i,
    dG(q_i) = sum over heads of t_i epsilon / (denominator_i G(q_i)^2),
    dS = sum_i p_i g_i^T,    dk_mean = -sum_i t_i p_i,    df(k_j) = (dS v_j + dk_mean) / N,
    ds(k_j) = G(k_j) df(k_j),    dG(k_j) = sum over heads of df(k_j) . s(k_j),
    da = p a^(p-1) ds + dG G (a / ||a||^2 - p a^(2p-1) / ||a^p||^2),
    dx = inverse da where x + position > 0,    dinverse = sum of da a / inverse
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_impls.shapes import Grid
from attention_impls.triton_parts.layout import Blocks, Heads, blocks_of, launcher, rows, strides
from attention_impls.triton_parts.local import convolved, convolved_backward
from attention_impls.triton_parts.state import (
    added,
    empty_partial,
    load_feature_sums,
    load_products,
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

SMALLEST = tl.constexpr(1e-6)
"""Added to rectified numbers."""


@triton.jit
@no_type_check
def power(x, exponent: tl.constexpr):
    """x^exponent of positive x; whole exponents up to 6 by products."""
    if exponent == 0:
        result = x * 0.0 + 1.0
    elif exponent == 1:
        result = x
    elif exponent == 2:
        result = x * x
    elif exponent == 3:
        result = x * x * x
    elif exponent == 4:
        result = (x * x) * (x * x)
    elif exponent == 5:
        result = (x * x) * (x * x) * x
    elif exponent == 6:
        result = (x * x * x) * (x * x * x)
    else:
        result = tl.exp2(tl.log2(x) * exponent)
    return result


@triton.jit
@no_type_check
def load_rectified(
    pointer,
    position,
    inverse,
    first,
    last,
    stride,
    position_stride,
    has_position: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Return a of the tokens from `first`, and whether x + position is above zero.

    Beyond the last token and channel a is 1, whose powers are harmless; callers mask what they sum.
    """
    x = load_rows(pointer, first, last, stride, head_dim, block_tokens, block_width).to(tl.float32)
    if has_position:
        x += load_rows(
            position, first, last, position_stride, head_dim, block_tokens, block_width
        ).to(tl.float32)
    channel = tl.arange(0, block_width)
    scale = tl.load(inverse + channel, mask=channel < head_dim, other=1.0)
    inside = row_mask(first, last, head_dim, block_tokens, block_width)
    a = (tl.maximum(x, 0.0) + SMALLEST) * scale[None, :]
    return tl.where(inside, a, 1.0), (x > 0) & inside


@triton.jit
@no_type_check
def load_column(pointer, first, last, block_tokens: tl.constexpr):
    """[block_tokens]: one float32 a token, 1 from `last` on."""
    token = first + tl.arange(0, block_tokens)
    return tl.load(pointer + token, mask=token < last, other=1.0)


@triton.jit
@no_type_check
def store_column(pointer, column, first, last, block_tokens: tl.constexpr):
    """Write one float32 a token."""
    token = first + tl.arange(0, block_tokens)
    tl.store(pointer + token, column, mask=token < last)


@triton.jit
@no_type_check
def norms_kernel(
    q,
    k,
    position,
    inverse,
    squares,
    powers,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    heads,
    tokens,
    batch,
    exponent: tl.constexpr,
    doubled: tl.constexpr,
    has_position: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """||a||^2 and ||a^p||^2 of each token, first of all queries, then of all keys.

    Bytes: q and k once, 2 N C e, and 16 N for the norms. Floor: bytes / copy bandwidth. Binds:
    memory. These are bytes that a feature map within a head would not cost. Measured: not yet.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(tokens, block_tokens)
    sequence, start = program // blocks, (program % blocks) * block_tokens
    is_key = sequence >= batch
    item = (sequence % batch).to(tl.int64)
    square = tl.zeros((block_tokens,), tl.float32)
    powered = tl.zeros((block_tokens,), tl.float32)
    inside = row_mask(start, tokens, head_dim, block_tokens, block_width)
    for head in range(heads):
        place = position + head * head_dim
        scale = inverse + head * head_dim
        if is_key:
            a, _ = load_rectified(
                k + item * k_batch + head * k_head, place, scale, start, tokens, k_token,
                heads * head_dim, has_position, head_dim, block_tokens, block_width,
            )  # fmt: skip
        else:
            a, _ = load_rectified(
                q + item * q_batch + head * q_head, place, scale, start, tokens, q_token,
                heads * head_dim, False, head_dim, block_tokens, block_width,
            )  # fmt: skip
        a = tl.where(inside, a, 0.0)
        square += tl.sum(a * a, 1)
        powered += tl.sum(tl.where(inside, power(tl.where(inside, a, 1.0), doubled), 0.0), 1)
    where = sequence.to(tl.int64) * tokens
    store_column(squares + where, square, start, tokens, block_tokens)
    store_column(powers + where, powered, start, tokens, block_tokens)
