"""Centred linear attention with a local residual whose filters each sample has of its own.

    out_i = v_mean + phi(q_i)^T S + R_i,
    S = s ((1 / N) sum_j phi(k_j) v_j^T - k_mean v_mean^T),    s = 1 / sqrt(d)

R is the convolution of the values with the filters on the grid. Backward, g being the gradient of
the output and D = (s / N) sum_i phi(q_i) g_i^T:

    dphi(q_i) = S g_i,    dphi(k_j) = D (v_j - v_mean),
    dv_j = D^T (phi(k_j) - k_mean) + g_mean + the transposed convolution of g

Keys and values are centred before they are rounded: the means cancel in float32. Half of the
division by N is done on D, half on the results, so that half precision holds both.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_impls.shapes import Grid
from attention_impls.triton_parts.centred_kernels import (
    centred_accumulate_backward_kernel,
    centred_apply_backward_kernel,
    centred_apply_kernel,
)
from attention_impls.triton_parts.layout import Blocks, Heads, blocks_of, launcher, rows, strides
from attention_impls.triton_parts.local import CONVOLVING_WARPS
from attention_impls.triton_parts.state import (
    accumulated,
    added,
    empty_partial,
)

SIDE = 3
"""Rows and columns of the filters."""
TAPS = 16
"""SIDE^2, rounded up to a power of two."""


class _Centred(torch.autograd.Function):
    """The formula of the module docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Heads,
        k: Heads,
        v: Heads,
        filters: Tensor | None,
        grid: Grid,
        feature_map: str,
    ) -> Heads:
        q, k, v = rows(q), rows(k), rows(v)
        filters = None if filters is None else filters.contiguous()
        blocks = blocks_of(q)
        state = accumulated(k, v, blocks, feature_map=feature_map, factor=1 / blocks.tokens)
        out = torch.empty_like(q)
        launcher(centred_apply_kernel, blocks.programs, q)(
            q, v, state, q if filters is None else filters, out,
            *strides(q), *strides(v), *strides(out), *_sizes(q, blocks), *_places(blocks, grid),
            q.shape[3] ** -0.5, 0 if filters is None else SIDE, *_meta(q, blocks, feature_map),
            num_warps=CONVOLVING_WARPS, num_stages=blocks.stages,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, state, filters)
        ctx.blocks, ctx.grid, ctx.feature_map = blocks, grid, feature_map
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, upstream: Heads
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None, None]:
        q, k, v, state, filters = ctx.saved_tensors
        blocks: Blocks = ctx.blocks
        upstream = rows(upstream)
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        partial = empty_partial(blocks, q)
        sizes, meta = _sizes(q, blocks), _meta(q, blocks, ctx.feature_map)
        scale, root = q.shape[3] ** -0.5, blocks.tokens**-0.5
        launcher(centred_apply_backward_kernel, blocks.programs, q)(
            q, upstream, state, dq, partial, *strides(q), *strides(upstream), *strides(dq),
            *sizes, scale, *meta, num_warps=blocks.warps, num_stages=blocks.backward_stages,
        )  # fmt: skip
        d_state = added(partial, blocks, root)
        size = 1 if filters is None else TAPS * blocks.block_width
        d_filters = partial.new_empty((blocks.programs, size))
        launcher(centred_accumulate_backward_kernel, blocks.programs, q)(
            k, v, upstream, state, d_state, q if filters is None else filters, dk, dv, d_filters,
            *strides(k), *strides(v), *strides(upstream), *strides(dk), *strides(dv),
            *sizes, *_places(blocks, ctx.grid), scale, root, 0 if filters is None else SIDE, TAPS,
            *meta, blocks.state_stays,
            num_warps=CONVOLVING_WARPS, num_stages=blocks.backward_stages,
        )  # fmt: skip
        if filters is None:
            return dq, dk, dv, None, None, None
        by_tap = added(d_filters, blocks, 1.0).view(-1, TAPS, blocks.block_width)
        by_tap = by_tap[:, : SIDE**2, : q.shape[3]].mT.reshape(filters.shape)
        return dq, dk, dv, by_tap.to(filters.dtype), None, None


def _sizes(x: Heads, blocks: Blocks) -> tuple[int, int, int, int]:
    return x.shape[1], blocks.tokens, blocks.splits, blocks.tokens_per_split


def _places(blocks: Blocks, grid: Grid) -> tuple[int, int, int]:
    return grid.height, grid.width, blocks.tokens - grid.tokens


def _meta(x: Heads, blocks: Blocks, feature_map: str) -> tuple[str, int, int, int]:
    return feature_map, x.shape[3], blocks.block_tokens, blocks.block_width


def centred_attention(
    q: Heads, k: Heads, v: Heads, filters: Tensor | None, grid: Grid, feature_map: str
) -> Heads:
    """Return the formula of the module docstring.

    Args:
        q: queries, before the feature map.
        k: keys, before the feature map.
        v: values; extra tokens come first.
        filters: [batch, channels, 3, 3]; None: no residual.
        grid: layout of the tokens that are not extra.
        feature_map: one of those of `feature_maps.features`.

    Raises:
        TypeError: a dtype that the kernels do not cover.
    """
    return _Centred.apply(q, k, v, filters, grid, feature_map)
