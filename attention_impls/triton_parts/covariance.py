"""Cross-covariance attention: weights between channels, from sums over tokens.

    out = V A^T,    A_ab = softmax_b(tau c_ab),    c_ab = G_ab / (n_a m_b),
    G = (1 / N) sum_i q_i k_i^T,    n_a^2 = (1 / N) sum_i q_ia^2,    m_b^2 = (1 / N) sum_i k_ib^2

Backward, with g the gradient of the output, s the scores tau c:

    dv_i = A^T g_i,    dA = sum_i g_i v_i^T,    ds_ab = A_ab (dA_ab - sum_b dA_ab A_ab),
    dtau = sum_ab ds_ab c_ab,    dc = tau ds,    dG_ab = dc_ab / (n_a m_b),
    dq_i = (dG k_i - alpha q_i) / N,    alpha_a = (sum_b dc_ab c_ab) / n_a^2,
    dk_i = (dG^T q_i - beta k_i) / N,   beta_b = (sum_a dc_ab c_ab) / m_b^2

The sums are taken with means, and dA over sqrt(N), so that half precision holds what is rounded.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_impls.triton_parts.covariance_kernels import (
    covariance_backward_kernel,
    covariance_kernel,
    mix_channels_kernel,
    read_weights_backward_kernel,
    weights_backward_kernel,
    weights_kernel,
)
from attention_impls.triton_parts.layout import Blocks, Heads, blocks_of, launcher, rows, strides
from attention_impls.triton_parts.state import (
    added,
    empty_partial,
)


class _CrossCovariance(torch.autograd.Function):
    """The formula of the module docstring."""

    @staticmethod
    def forward(
        ctx: Any, q: Heads, k: Heads, v: Heads, temperature: Tensor, smallest_norm: float
    ) -> Heads:
        q, k, v = rows(q), rows(k), rows(v)
        blocks = blocks_of(q)
        smallest = smallest_norm * blocks.tokens**-0.5
        state = added(_products_of(q, k, blocks), blocks, 1 / blocks.tokens)
        weights = torch.empty_like(state)
        launcher(weights_kernel, blocks.sequences, q)(
            state, temperature, weights, q.shape[1], smallest, q.shape[3], blocks.block_width,
            num_warps=8,
        )  # fmt: skip
        out = torch.empty_like(v)
        sizes, meta = _sizes(q, blocks)
        launcher(mix_channels_kernel, blocks.programs, v)(
            v, weights, out, *strides(v), *strides(out), *sizes, *meta,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, temperature, state, weights)
        ctx.blocks, ctx.smallest = blocks, smallest
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Heads) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, temperature, state, weights = ctx.saved_tensors
        blocks: Blocks = ctx.blocks
        upstream = rows(upstream)
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        partial = empty_partial(blocks, q)
        sizes, meta = _sizes(q, blocks)
        launcher(read_weights_backward_kernel, blocks.programs, q)(
            v, upstream, weights, dv, partial, *strides(v), *strides(upstream), *strides(dv),
            *sizes, *meta, num_warps=blocks.warps, num_stages=blocks.backward_stages,
        )  # fmt: skip
        root = blocks.tokens**-0.5
        d_weights = added(partial, blocks, root)
        d_state = torch.empty_like(d_weights)
        d_temperature = d_state.new_empty(q.shape[0], q.shape[1], 1, 1)
        launcher(weights_backward_kernel, blocks.sequences, q)(
            state, temperature, weights, d_weights, d_state, d_temperature, q.shape[1],
            ctx.smallest, blocks.block_width, num_warps=8,
        )  # fmt: skip
        launcher(covariance_backward_kernel, blocks.programs, q)(
            q, k, d_state, dq, dk, *strides(q), *strides(k), *strides(dq), *strides(dk), *sizes,
            root, *meta, blocks.state_stays,
            num_warps=blocks.warps, num_stages=blocks.backward_stages,
        )  # fmt: skip
        return dq, dk, dv, (d_temperature.sum(0) / root).to(temperature.dtype), None


def _products_of(q: Heads, k: Heads, blocks: Blocks) -> Tensor:
    partial = empty_partial(blocks, q)
    sizes, meta = _sizes(q, blocks)
    launcher(covariance_kernel, blocks.programs, q)(
        q, k, partial, *strides(q), *strides(k), *sizes, *meta,
        num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip
    return partial


def _sizes(x: Heads, blocks: Blocks) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes known at a launch, and those compiled into a kernel."""
    launched = (x.shape[1], blocks.tokens, blocks.splits, blocks.tokens_per_split)
    return launched, (x.shape[3], blocks.block_tokens, blocks.block_width)


def cross_covariance(
    q: Heads, k: Heads, v: Heads, temperature: Tensor, smallest_norm: float
) -> Heads:
    """Return the formula of the module docstring.

    Args:
        q: queries.
        k: keys.
        v: values.
        temperature: tau, [heads, 1, 1].
        smallest_norm: a channel's norm over the tokens (sqrt(N) n_a) counts as at least this.

    Raises:
        TypeError: a dtype that the kernels do not cover.
    """
    return _CrossCovariance.apply(q, k, v, temperature, smallest_norm)
