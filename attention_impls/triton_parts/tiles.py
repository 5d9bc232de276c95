"""Pieces of kernels: blocks of tokens between memory and chip, and their products.

`no_type_check` keeps run-time type checkers, which wrap functions, away from the source that Triton
compiles. Rows of a tensor lie `stride` numbers apart, the numbers of a row side by side.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.backend import interpreted

INTERPRETED = tl.constexpr(interpreted())
"""Whether these kernels run under Triton's interpreter; settled when they are imported."""


@triton.jit
@no_type_check
def head_offset(head, heads, batch_stride, head_stride):
    """Where sequence `head` of batch x heads begins; 64 bits, since tensors can be that large."""
    item = (head // heads).to(tl.int64)
    return item * batch_stride + (head % heads).to(tl.int64) * head_stride


@triton.jit
@no_type_check
def row_mask(
    first, last, width: tl.constexpr, block_tokens: tl.constexpr, block_width: tl.constexpr
):
    """[block_tokens, block_width]: tokens from `first` that come before `last`, real channels."""
    token = first + tl.arange(0, block_tokens)
    channel = tl.arange(0, block_width)
    return (token < last)[:, None] & (channel < width)[None, :]


@triton.jit
@no_type_check
def row_offsets(first, stride, block_tokens: tl.constexpr, block_width: tl.constexpr):
    """[block_tokens, block_width]: where the numbers of the tokens from `first` lie."""
    token = (first + tl.arange(0, block_tokens)).to(tl.int64)
    return token[:, None] * stride + tl.arange(0, block_width)[None, :]


@triton.jit
@no_type_check
def load_rows(
    pointer,
    first,
    last,
    stride,
    width: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Tokens from `first`, zeros from `last` on and from channel `width` on."""
    inside = row_mask(first, last, width, block_tokens, block_width)
    where = row_offsets(first, stride, block_tokens, block_width)
    return tl.load(pointer + where, mask=inside, other=0.0)


@triton.jit
@no_type_check
def store_rows(
    pointer,
    block,
    first,
    last,
    stride,
    width: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Write tokens from `first` to before `last`, in the dtype of the memory."""
    inside = row_mask(first, last, width, block_tokens, block_width)
    where = row_offsets(first, stride, block_tokens, block_width)
    tl.store(pointer + where, block.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def square_offsets(block_width: tl.constexpr):
    """[block_width, block_width]: where the numbers of a state lie."""
    line = tl.arange(0, block_width)
    return line[:, None] * block_width + line[None, :]


@triton.jit
@no_type_check
def product(a, b, added, dtype: tl.constexpr):
    """A b + added in float32; float32 operands as sums of three products of TF32 parts.

    Three products keep 21 or more of the 24 bits, at tensor-core speed; plain float32 products
    would be bound by arithmetic instead of memory.
    """
    a, b = a.to(dtype), b.to(dtype)
    if INTERPRETED:
        # the interpreter multiplies the bits of bfloat16 numbers as if they were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, added, input_precision="tf32x3")
