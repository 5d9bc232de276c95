"""A depthwise convolution of tokens over their grid, as part of a kernel that has other work too.

Tap t of a filter of side s reads, for the token in row r and column c, the one in row r + t // s -
s // 2 and column c + t % s - s // 2; zeros beyond the grid. Neighbours come from the caches: a
block's taps are the same few rows of the grid, one token or one row apart. Extra tokens come first
and have no place on the grid.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.tiles import row_offsets

CONVOLVING_WARPS = 8
"""Of kernels with a convolution: the places of so many neighbours would not fit into the registers
of fewer threads."""
LARGEST_UNROLLED = tl.constexpr(3)
"""Largest side of filters whose rows are unrolled."""


@triton.jit
@no_type_check
def load_filter(pointer, tap, side: tl.constexpr, head_dim: tl.constexpr, width: tl.constexpr):
    """[width], float32: one tap of the filters of a head's channels, which lie side^2 apart."""
    channel = tl.arange(0, width)
    return tl.load(pointer + channel * (side * side) + tap, mask=channel < head_dim, other=0.0).to(
        tl.float32
    )


@triton.jit
@no_type_check
def load_neighbours(
    pointer,
    first,
    stride,
    rows,
    columns,
    extra_tokens,
    down,
    right,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """For each token from `first` the one `down` rows and `right` columns away, zeros beyond."""
    place = first - extra_tokens + tl.arange(0, block_tokens)
    row, column = place // columns + down, place % columns + right
    there = (place >= 0) & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    # a token beyond the last row can have a neighbour within: its result is not stored
    channel = tl.arange(0, block_width)
    where = row_offsets(first + down * columns + right, stride, block_tokens, block_width)
    inside = there[:, None] & (channel < head_dim)[None, :]
    return tl.load(pointer + where, mask=inside, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def convolved_row(
    added,
    pointer,
    filters,
    first,
    stride,
    rows,
    columns,
    extra_tokens,
    row,
    side: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """`added` plus what one row of the filters adds."""
    for column in tl.static_range(side):
        neighbours = load_neighbours(
            pointer, first, stride, rows, columns, extra_tokens, row - side // 2,
            column - side // 2, head_dim, block_tokens, block_width,
        )  # fmt: skip
        tap = load_filter(filters, row * side + column, side, head_dim, block_width)
        added += neighbours * tap[None, :]
    return added


@triton.jit
@no_type_check
def convolved(
    added,
    pointer,
    filters,
    first,
    stride,
    rows,
    columns,
    extra_tokens,
    side: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """`added` plus the convolution at the tokens from `first`, float32.

    Rows of larger filters are a loop: unrolled, their neighbours would not fit into registers.
    """
    if side > LARGEST_UNROLLED:
        for row in range(side):
            added = convolved_row(
                added, pointer, filters, first, stride, rows, columns, extra_tokens, row, side,
                head_dim, block_tokens, block_width,
            )  # fmt: skip
    else:
        for row in tl.static_range(side):
            added = convolved_row(
                added, pointer, filters, first, stride, rows, columns, extra_tokens, row, side,
                head_dim, block_tokens, block_width,
            )  # fmt: skip
    return added


@triton.jit
@no_type_check
def convolved_row_backward(
    d_values,
    d_filters,
    values,
    upstream,
    filters,
    first,
    stride,
    rows,
    columns,
    extra_tokens,
    row,
    side: tl.constexpr,
    taps: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """`d_values` and `d_filters` plus what one row of the filters adds to them."""
    for column in tl.static_range(side):
        gradient = load_neighbours(
            upstream, first, stride, rows, columns, extra_tokens, side // 2 - row,
            side // 2 - column, head_dim, block_tokens, block_width,
        )  # fmt: skip
        tap = row * side + column
        of_tap = load_filter(filters, tap, side, head_dim, block_width)
        d_values += gradient * of_tap[None, :]
        moved = tl.sum(gradient * values, 0)
        d_filters += tl.where((tl.arange(0, taps) == tap)[:, None], moved[None, :], 0.0)
    return d_values, d_filters


@triton.jit
@no_type_check
def convolved_backward(
    d_values,
    d_filters,
    values,
    upstream,
    filters,
    first,
    stride,
    rows,
    columns,
    extra_tokens,
    side: tl.constexpr,
    taps: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """`d_values` and `d_filters` plus what the convolution adds to them.

    A token's value met tap t in the output of the token that lies the other way, so one reading of
    that output's gradient gives both.

    Args:
        d_values: [block_tokens, block_width], of the tokens from `first`.
        d_filters: [taps, block_width], `taps` being side^2 rounded up to a power of two.
        values: [block_tokens, block_width], float32; zeros beyond the last token.
        upstream: where the output's gradient of this sequence and head begins.
        filters: where the filters of this head begin.
        first: number of the first token.
        stride: from one token's gradient to the next.
        rows: of the grid.
        columns: of the grid.
        extra_tokens: before the grid.
        side: of the filters.
        taps: rows of `d_filters`.
        head_dim: channels.
        block_tokens: tokens.
        block_width: channels, rounded up.
    """
    if side > LARGEST_UNROLLED:
        for row in range(side):
            d_values, d_filters = convolved_row_backward(
                d_values, d_filters, values, upstream, filters, first, stride, rows, columns,
                extra_tokens, row, side, taps, head_dim, block_tokens, block_width,
            )  # fmt: skip
    else:
        for row in tl.static_range(side):
            d_values, d_filters = convolved_row_backward(
                d_values, d_filters, values, upstream, filters, first, stride, rows, columns,
                extra_tokens, row, side, taps, head_dim, block_tokens, block_width,
            )  # fmt: skip
    return d_values, d_filters
