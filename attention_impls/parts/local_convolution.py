"""Depthwise convolution of the values over their grid: the local branch beside a global mix.

Memory order is the point. Tokens lie row by row with their channels together, which is what torch
calls channels-last; a convolution that is handed that view runs an order of magnitude faster on a
CPU than one handed `[channels, height, width]`, and saves the transposition there and back.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.shapes import Grid

Heads = Float[Tensor, "batch heads tokens head_dim"]


def convolve_heads(
    v: Heads,
    weight: Float[Tensor, "head_dim 1 side side"],
    bias: Float[Tensor, " head_dim"] | None,
    grid: Grid,
) -> Heads:
    """Convolve each head's map with the same depthwise filters; zero padding, same size.

    Args:
        v: values on the grid, no extra tokens.
        weight: one filter a channel of a head, odd side.
        bias: one a channel of a head.
        grid: layout of the tokens.
    """
    maps = v.reshape(-1, grid.height, grid.width, v.shape[-1]).permute(0, 3, 1, 2)
    padding = weight.shape[-1] // 2
    out = F.conv2d(maps, weight, bias, padding=padding, groups=v.shape[-1])
    return out.permute(0, 2, 3, 1).reshape(v.shape)


def image_of(heads: Heads, grid: Grid) -> Float[Tensor, "batch channels height width"]:
    """Return the tokens as an image, channels last, of all channels of all heads.

    Args:
        heads: tokens on the grid, no extra tokens.
        grid: layout of the tokens.
    """
    stream = heads.transpose(1, 2)
    return stream.reshape(heads.shape[0], grid.height, grid.width, -1).permute(0, 3, 1, 2)


def heads_of(image: Float[Tensor, "batch channels height width"], heads: int) -> Heads:
    """Return an image as tokens of `heads` heads: the way back from `image_of`."""
    return image.flatten(2).transpose(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)


def channel_convolution(channels: int, side: int) -> nn.Conv2d:
    """Return the parameters of a depthwise convolution: a filter and a bias for each channel."""
    return nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)


def convolve_channels(
    v: Heads,
    weight: Float[Tensor, "channels 1 side side"],
    bias: Float[Tensor, " channels"] | None,
    grid: Grid,
) -> Heads:
    """Convolve each channel of each head with its own filter; zero padding, same size.

    Args:
        v: values on the grid, no extra tokens.
        weight: one filter a channel, odd side; channels are heads x head_dim.
        bias: one a channel.
        grid: layout of the tokens.
    """
    padding, groups = weight.shape[-1] // 2, weight.shape[0]
    return heads_of(
        F.conv2d(image_of(v, grid), weight, bias, padding=padding, groups=groups), v.shape[1]
    )


def convolve_each_sample(
    v: Heads, kernels: Float[Tensor, "batch channels side side"], grid: Grid
) -> Heads:
    """Convolve each channel of each sample with its own filter; zero padding, same size.

    Args:
        v: values on the grid, no extra tokens.
        kernels: one filter a sample and channel, odd side; channels are heads x head_dim.
        grid: layout of the tokens.
    """
    batch, heads, _, head_dim = v.shape
    # samples become channels of one image, which is what gives each its own filters
    image = v.permute(2, 0, 1, 3).reshape(1, grid.height, grid.width, -1).permute(0, 3, 1, 2)
    groups = batch * heads * head_dim
    weight = kernels.reshape(groups, 1, *kernels.shape[2:])
    out = F.conv2d(image, weight, padding=weight.shape[-1] // 2, groups=groups)
    return out.permute(0, 2, 3, 1).reshape(-1, batch, heads, head_dim).permute(1, 2, 0, 3)


def local_convolution_flops(batch: int, grid: Grid, channels: int, side: int) -> int:
    """2 B n C side^2 for n grid tokens; padding counts as if it were multiplied."""
    return 2 * batch * grid.tokens * channels * side**2
