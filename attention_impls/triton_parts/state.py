"""The state of a linear attention: sums over tokens, split over programs and added in order.

A state of one head holds `block_width` rows of sum_j phi(k_j) v_j^T, one row of sum_j phi(k_j) and
one of sum_j v_j, all float32. Programs write partial states; a second kernel adds those of a head
in the order of the tokens, so that results are the same bits in every run: nothing is atomic.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from attention_impls.triton_parts.feature_maps import load_features
from attention_impls.triton_parts.layout import Blocks, Heads, launcher, strides
from attention_impls.triton_parts.tiles import head_offset, load_rows, product, square_offsets

ROWS_BESIDE = 2
"""Rows of a state after the products: the sum of the features, the sum of the values."""
_ADDED_AT_A_TIME = 1024


@triton.jit
@no_type_check
def store_partial(pointer, program, products, features, values, block_width: tl.constexpr):
    """Write the partial state of a program: products, sum of features, sum of values."""
    pointer += program.to(tl.int64) * ((block_width + 2) * block_width)
    channel = tl.arange(0, block_width)
    tl.store(pointer + square_offsets(block_width), products)
    tl.store(pointer + block_width * block_width + channel, features)
    tl.store(pointer + (block_width + 1) * block_width + channel, values)


@triton.jit
@no_type_check
def state_pointer(pointer, head, block_width: tl.constexpr):
    """Where the state of sequence `head` begins."""
    return pointer + head.to(tl.int64) * ((block_width + 2) * block_width)


@triton.jit
@no_type_check
def load_products(pointer, block_width: tl.constexpr):
    """[block_width, block_width] of the state at `pointer`."""
    return tl.load(pointer + square_offsets(block_width))


@triton.jit
@no_type_check
def load_feature_sums(pointer, block_width: tl.constexpr):
    """[block_width]: the row of features of the state at `pointer`."""
    return tl.load(pointer + block_width * block_width + tl.arange(0, block_width))


@triton.jit
@no_type_check
def load_value_sums(pointer, block_width: tl.constexpr):
    """[block_width]: the row of values of the state at `pointer`."""
    return tl.load(pointer + (block_width + 1) * block_width + tl.arange(0, block_width))


@triton.jit
@no_type_check
def accumulate_kernel(
    k,
    v,
    partial,
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
    feature_map: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Partial states over the tokens of each program.

    Bytes: k and v once, 2 N C e for N tokens, C channels of e bytes; partial states, 4 (d + 2) d
    for each program. Floor: bytes / copy bandwidth. Binds: memory; a token and head costs 2 d^2
    FLOPs for 2 d e bytes, d / e FLOPs a byte. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    k += head_offset(head, heads, k_batch, k_head)
    v += head_offset(head, heads, v_batch, v_head)
    products = tl.zeros((block_width, block_width), tl.float32)
    sum_k = tl.zeros((block_width,), tl.float32)
    sum_v = tl.zeros((block_width,), tl.float32)
    for start in range(first, last, block_tokens):
        _, keys = load_features(
            k, start, last, k_token, head_dim, block_tokens, block_width, feature_map
        )
        values = load_rows(v, start, last, v_token, head_dim, block_tokens, block_width)
        products = product(tl.trans(keys), values, products, values.dtype)
        sum_k += tl.sum(keys, 0)
        sum_v += tl.sum(values.to(tl.float32), 0)
    store_partial(partial, program, products, sum_k, sum_v, block_width)


@triton.jit
@no_type_check
def add_splits_kernel(partial, total, splits, size, factor, block: tl.constexpr):
    """Total = factor x the sum of the partial states of a head, first to last.

    Bytes: 4 splits x size + 4 size for each head, from the L2 cache where they fit. Binds: its
    launch, on sequences of ordinary length. Measured: not yet.
    """
    parts = tl.cdiv(size, block)
    program = tl.program_id(0)
    head = (program // parts).to(tl.int64)
    place = (program % parts) * block + tl.arange(0, block)
    inside = place < size
    partial += head * splits * size
    added = tl.zeros((block,), tl.float32)
    for split in range(splits):
        added += tl.load(partial + split * size + place, mask=inside, other=0.0)
    tl.store(total + head * size + place, added * factor, mask=inside)


def state_size(blocks: Blocks) -> int:
    """Numbers in the state of one head."""
    return (blocks.block_width + ROWS_BESIDE) * blocks.block_width


def empty_partial(blocks: Blocks, like: Tensor) -> Tensor:
    """Memory for the partial states of all programs."""
    return torch.empty(
        (blocks.programs, state_size(blocks)), dtype=torch.float32, device=like.device
    )


def added(partial: Tensor, blocks: Blocks, factor: float) -> Tensor:
    """Return factor x the sums over each head's programs of any float32 numbers of theirs.

    Args:
        partial: [programs, size], programs of a head side by side in the order of the tokens.
        blocks: how many programs each head has.
        factor: multiplies the sums.
    """
    size = partial.shape[1]
    total = partial.new_empty((blocks.sequences, size))
    programs = blocks.sequences * -(-size // _ADDED_AT_A_TIME)
    launcher(add_splits_kernel, programs, partial)(
        partial, total, blocks.splits, size, factor, block=_ADDED_AT_A_TIME, num_warps=4
    )
    return total


def accumulated(k: Heads, v: Heads, blocks: Blocks, *, feature_map: str, factor: float) -> Tensor:
    """Return factor x the state of each head: [batch x heads, (block_width + 2) block_width]."""
    partial = empty_partial(blocks, k)
    launcher(accumulate_kernel, blocks.programs, k)(
        k,
        v,
        partial,
        *strides(k),
        *strides(v),
        k.shape[1],
        blocks.tokens,
        blocks.splits,
        blocks.tokens_per_split,
        feature_map=feature_map,
        head_dim=k.shape[3],
        block_tokens=blocks.block_tokens,
        block_width=blocks.block_width,
        num_warps=blocks.warps,
        num_stages=blocks.stages,
    )
    return added(partial, blocks, factor)
