"""Features of focused linear attention inside kernels: powers, norms over all heads, gains.

a, s, G and p as in `focused`.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.tiles import load_rows, row_mask

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
def gain_of(squares, powers):
    """G = ||a|| / ||a^p|| from the squares of both norms."""
    return tl.sqrt(squares / powers)


@triton.jit
@no_type_check
def rectified_backward(a, d_sharp, d_gain, square, powered, exponent: tl.constexpr):
    """Return da: through a^p, and through both norms of the gain."""
    low = power(a, exponent - 1)
    gain = gain_of(square, powered)
    along = a / square[:, None] - exponent * low * low * a / powered[:, None]
    return exponent * low * d_sharp + (d_gain * gain)[:, None] * along


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
    q += item * q_batch
    k += item * k_batch
    # pointers move from head to head: head times stride can be more than 32 bits hold
    for _head in range(heads):
        if is_key:
            a, _above = load_rectified(
                k, position, inverse, start, tokens, k_token,
                heads * head_dim, has_position, head_dim, block_tokens, block_width,
            )  # fmt: skip
        else:
            a, _above = load_rectified(
                q, position, inverse, start, tokens, q_token,
                heads * head_dim, False, head_dim, block_tokens, block_width,
            )  # fmt: skip
        q += q_head
        k += k_head
        position += head_dim
        inverse += head_dim
        square += tl.sum(tl.where(inside, a * a, 0.0), 1)
        powered += tl.sum(tl.where(inside, power(a, doubled), 0.0), 1)
    where = sequence.to(tl.int64) * tokens
    store_column(squares + where, square, start, tokens, block_tokens)
    store_column(powers + where, powered, start, tokens, block_tokens)
