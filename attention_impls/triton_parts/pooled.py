"""Efficient attention: values pooled by a softmax over tokens, read by a softmax over channels.

    out_i = f p_i^T S,    p_i = softmax_c(q_ic),    S_c = sum_j w_jc v_j,    w_jc = softmax_j(k_jc)

The softmax over tokens is taken online, in one reading of the keys: a program rescales what it has
summed when it meets a larger key, and so does the kernel that joins the partial states.

Backward, with g the gradient of the output, f a factor of the queries:

    dp_i = f S g_i,    dq_i = p_i (dp_i - dp_i . p_i),    dS = f sum_i p_i g_i^T,
    dv_j = dS^T w_j,    dk_jc = w_jc ((dS v_j)_c - dS_c . S_c)

so that the keys' softmax needs no further sum over tokens. Weights are taken sqrt(N) times as large
and dS as small before they are rounded: half precision cannot hold 1 / N.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_impls.triton_parts.layout import Blocks, Heads, blocks_of, launcher, rows, strides
from attention_impls.triton_parts.pooled_kernels import (
    join_kernel,
    pool_backward_kernel,
    pool_kernel,
    read_backward_kernel,
    read_kernel,
)
from attention_impls.triton_parts.state import (
    added,
    empty_partial,
    state_size,
)


class _Pooled(torch.autograd.Function):
    """The formula of the module docstring."""

    @staticmethod
    def forward(ctx: Any, q: Heads, k: Heads, v: Heads, factor: float) -> Heads:
        q, k, v = rows(q), rows(k), rows(v)
        blocks = blocks_of(q)
        sizes, meta = _sizes(q, blocks)
        partial = empty_partial(blocks, q)
        launcher(pool_kernel, blocks.programs, q)(
            k, v, partial, *strides(k), *strides(v), *sizes, *meta,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        state = partial.new_empty((blocks.sequences, state_size(blocks)))
        launcher(join_kernel, blocks.sequences, q)(
            partial, state, blocks.splits, blocks.block_width, num_warps=8
        )
        out = torch.empty_like(q)
        launcher(read_kernel, blocks.programs, q)(
            q, state, out, *strides(q), *strides(out), *sizes, factor, *meta,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, state)
        ctx.blocks, ctx.factor = blocks, factor
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Heads) -> tuple[Tensor, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, state = ctx.saved_tensors
        blocks: Blocks = ctx.blocks
        upstream = rows(upstream)
        sizes, meta = _sizes(q, blocks)
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        partial = empty_partial(blocks, q)
        launcher(read_backward_kernel, blocks.programs, q)(
            q, upstream, state, dq, partial, *strides(q), *strides(upstream), *strides(dq),
            *sizes, ctx.factor, *meta, num_warps=blocks.warps, num_stages=blocks.backward_stages,
        )  # fmt: skip
        root = blocks.tokens**0.5
        d_state = added(partial, blocks, ctx.factor / root)
        launcher(pool_backward_kernel, blocks.programs, q)(
            k, v, state, d_state, dk, dv, *strides(k), *strides(v), *strides(dk), *strides(dv),
            *sizes, root, *meta, blocks.state_stays,
            num_warps=blocks.warps, num_stages=blocks.backward_stages,
        )  # fmt: skip
        return dq, dk, dv, None


def _sizes(x: Heads, blocks: Blocks) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes known at a launch, and those compiled into a kernel."""
    launched = (x.shape[1], blocks.tokens, blocks.splits, blocks.tokens_per_split)
    return launched, (x.shape[3], blocks.block_tokens, blocks.block_width)


def pooled_attention(q: Heads, k: Heads, v: Heads, factor: float) -> Heads:
    """Return the formula of the module docstring; `factor` multiplies the queries' softmax.

    Raises:
        TypeError: a dtype that the kernels do not cover.
    """
    return _Pooled.apply(q, k, v, factor)
