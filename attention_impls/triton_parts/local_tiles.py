"""Depthwise convolution of a tile of tokens, inside kernels that hold the tile anyway.

Neighbours are read again for every place of the filter; they come from the caches, so that the
values cross the memory bus once.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def local_sum(
    values,
    filters,
    filter_channel_stride,
    token,
    inside,
    channel,
    channel_inside,
    token_stride,
    height,
    width,
    side: tl.constexpr,
    mirrored: tl.constexpr,
):
    """Return sum over places p of filter[p] * values[token + p], zero beyond the grid.

    Args:
        values: pointer to the first grid token of one head.
        filters: pointer to the head's filters, side * side numbers a channel.
        filter_channel_stride: from one channel's filter to the next; 0 where channels share one.
        token: numbers of the tile's tokens on the grid [block_tokens].
        inside: which of them are on the grid [block_tokens].
        channel: 0 .. block_width - 1.
        channel_inside: which of these exist.
        token_stride: from one token's values to the next.
        height: rows of the grid.
        width: columns of the grid.
        side: odd side of the filters.
        mirrored: values[token - p] instead: the transposed convolution of the backward pass.
    """
    row = token // width
    column = token % width
    total = tl.zeros((token.shape[0], channel.shape[0]), tl.float32)
    for place in tl.static_range(side * side):
        down = place // side - side // 2
        across = place % side - side // 2
        if mirrored:
            down = -down
            across = -across
        seen = inside & (row + down >= 0) & (row + down < height)
        seen = seen & (column + across >= 0) & (column + across < width)
        offset = (token + down * width + across)[:, None] * token_stride + channel[None, :]
        near = tl.load(values + offset, mask=seen[:, None] & channel_inside[None, :], other=0.0)
        factor = tl.load(
            filters + channel * filter_channel_stride + place, mask=channel_inside, other=0.0
        )
        total += near.to(tl.float32) * factor.to(tl.float32)[None, :]
    return total


@triton.jit
@no_type_check
def local_backward(
    upstream,
    values,
    filters,
    filter_channel_stride,
    token,
    inside,
    channel,
    channel_inside,
    token_stride,
    height,
    width,
    side: tl.constexpr,
    places: tl.constexpr,
):
    """Return gradients of `local_sum`: of the tile's values, and of the filters, the tile's share.

    Both need upstream[token - p], which is read once for both.

    Args:
        upstream: pointer to the gradient of the sum, at the first grid token of one head.
        values: the tile's values [block_tokens, block_width], float32.
        filters: as for `local_sum`, and so all that is not named here.
        filter_channel_stride: see there.
        token: see there.
        inside: see there.
        channel: see there.
        channel_inside: see there.
        token_stride: from one token's gradient to the next.
        height: see there.
        width: see there.
        side: see there.
        places: the next power of two of side * side.

    Returns:
        [block_tokens, block_width] and [places, block_width].
    """
    row = token // width
    column = token % width
    number = tl.arange(0, places)
    of_values = tl.zeros((token.shape[0], channel.shape[0]), tl.float32)
    of_filters = tl.zeros((places, channel.shape[0]), tl.float32)
    for place in tl.static_range(side * side):
        down = place // side - side // 2
        across = place % side - side // 2
        seen = inside & (row - down >= 0) & (row - down < height)
        seen = seen & (column - across >= 0) & (column - across < width)
        offset = (token - down * width - across)[:, None] * token_stride + channel[None, :]
        near = tl.load(upstream + offset, mask=seen[:, None] & channel_inside[None, :], other=0.0)
        near = near.to(tl.float32)
        factor = tl.load(
            filters + channel * filter_channel_stride + place, mask=channel_inside, other=0.0
        )
        of_values += near * factor.to(tl.float32)[None, :]
        share = tl.sum(near * values, axis=0)
        of_filters += tl.where((number == place)[:, None], share[None, :], 0.0)
    return of_values, of_filters
