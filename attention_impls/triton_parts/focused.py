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

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_impls.shapes import Grid
from attention_impls.triton_parts.focused_backward_inputs import (
    focused_keys_gradient_kernel,
    focused_queries_gradient_kernel,
)
from attention_impls.triton_parts.focused_backward_state import (
    focused_state_gradient_kernel,
    focused_values_gradient_kernel,
)
from attention_impls.triton_parts.focused_features import norms_kernel
from attention_impls.triton_parts.focused_forward import focused_apply_kernel, focused_state_kernel
from attention_impls.triton_parts.layout import (
    Blocks,
    Heads,
    block_width,
    blocks_of,
    launcher,
    rows,
    strides,
)
from attention_impls.triton_parts.local import CONVOLVING_WARPS
from attention_impls.triton_parts.state import added, empty_partial


@dataclass(frozen=True, slots=True, kw_only=True)
class Focus:
    """What does not change from call to call, and the grid of this one."""

    exponent: int | float
    """p."""
    epsilon: float
    """Added to the denominator."""
    grid: Grid


class _Focused(torch.autograd.Function):
    """The formula of the module docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Heads,
        k: Heads,
        v: Heads,
        inverse: Tensor,
        position: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        focus: Focus,
    ) -> Heads:
        q, k, v, inverse = rows(q), rows(k), rows(v), inverse.contiguous()
        blocks = blocks_of(q)
        batch, heads, tokens, head_dim = q.shape
        norms = torch.empty(2, 2, batch, tokens, dtype=torch.float32, device=q.device)
        has_position = position is not None
        place = position.contiguous() if position is not None else k
        programs = 2 * batch * -(-tokens // blocks.block_tokens)
        width = (head_dim, blocks.block_tokens, blocks.block_width)
        launcher(norms_kernel, programs, q)(
            q, k, place, inverse, norms[0], norms[1], *strides(q), *strides(k), heads, tokens,
            batch, 2 * focus.exponent, has_position, *width, num_warps=blocks.warps,
        )  # fmt: skip
        squares, powers = norms
        partial = empty_partial(blocks, q)
        launcher(focused_state_kernel, blocks.programs, q)(
            k, v, place, inverse, squares[1], powers[1], partial, *strides(k), *strides(v),
            *_sizes(q, blocks), focus.exponent, has_position, *width,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        state = added(partial, blocks, 1 / tokens)
        out = torch.empty_like(q)
        side = 0 if weight is None else weight.shape[-1]
        filters = q if weight is None else weight.contiguous()
        launcher(focused_apply_kernel, blocks.programs, q)(
            q, v, inverse, squares[0], powers[0], state, filters, q if bias is None else bias, out,
            *strides(q), *strides(v), *strides(out), *_sizes(q, blocks), focus.grid.height,
            focus.grid.width, focus.epsilon, side, focus.exponent, *width,
            num_warps=CONVOLVING_WARPS, num_stages=blocks.stages,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, inverse, position, weight, bias, norms, state)
        ctx.blocks, ctx.focus = blocks, focus
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Heads) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, inverse, position, weight, bias, norms, state = ctx.saved_tensors
        blocks: Blocks = ctx.blocks
        focus: Focus = ctx.focus
        upstream = rows(upstream)
        batch, heads, tokens, head_dim = q.shape
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        place = k if position is None else position.contiguous()
        squares, powers = norms
        sizes, root = _sizes(q, blocks), tokens**-0.5
        width = (head_dim, blocks.block_tokens, blocks.block_width)
        warps, stages = blocks.warps, blocks.backward_stages
        d_gains = torch.empty(2, batch, heads, tokens, dtype=torch.float32, device=q.device)
        d_scales = d_gains.new_empty((2, blocks.programs, blocks.block_width))
        partial = empty_partial(blocks, q)
        launcher(focused_state_gradient_kernel, blocks.programs, q)(
            q, upstream, inverse, squares[0], powers[0], state, partial, d_gains[0],
            *strides(q), *strides(upstream), *sizes, focus.epsilon, focus.exponent, *width,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
        d_state = added(partial, blocks, root)
        side = 0 if weight is None else weight.shape[-1]
        taps = 1 << (max(1, side * side) - 1).bit_length()
        filters = q if weight is None else weight.contiguous()
        size = taps * blocks.block_width if side else 1
        d_filters = d_gains.new_empty((blocks.programs, size))
        launcher(focused_values_gradient_kernel, blocks.programs, q)(
            k, v, upstream, place, inverse, squares[1], powers[1], d_state, filters, dv,
            d_gains[1], d_filters, *strides(k), *strides(v), *strides(upstream), *strides(dv),
            *sizes, focus.grid.height, focus.grid.width, root, side, taps, focus.exponent,
            position is not None, *width, blocks.state_stays,
            num_warps=CONVOLVING_WARPS, num_stages=stages if q.dtype.itemsize == 2 else 1,
        )  # fmt: skip
        launcher(focused_queries_gradient_kernel, blocks.programs, q)(
            q, upstream, inverse, squares[0], powers[0], state, d_gains[0], dq, d_scales[0],
            *strides(q), *strides(upstream), *strides(dq), *sizes, focus.epsilon, focus.exponent,
            *width, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        launcher(focused_keys_gradient_kernel, blocks.programs, q)(
            k, v, place, inverse, squares[1], powers[1], d_state, d_gains[1], dk, d_scales[1],
            *strides(k), *strides(v), *strides(dk), *sizes, root, focus.exponent,
            position is not None, *width, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        by_head = added(d_scales[0], blocks, 1.0) + added(d_scales[1], blocks, 1.0)
        d_inverse = by_head.view(batch, heads, -1)[..., :head_dim].sum(0).flatten()
        return (
            dq,
            dk,
            dv,
            d_inverse,
            None if position is None else _of_position(dk, position),
            None if weight is None else _of_filters(added(d_filters, blocks, 1.0), weight),
            None if bias is None else _of_bias(d_state, blocks, root, bias),
            None,
        )


def _of_position(dk: Heads, position: Tensor) -> Tensor:
    """A position is added to the keys of every batch item."""
    total = dk.sum(0, dtype=torch.float32).transpose(0, 1)
    return total.reshape(position.shape).to(position.dtype)


def _of_filters(by_tap: Tensor, weight: Tensor) -> Tensor:
    """Sum over batch and heads, which share the filters; [channels, 1, side, side]."""
    channels, side = weight.shape[0], weight.shape[-1]
    width = block_width(channels)
    total = by_tap.sum(0).view(-1, width)[: side * side, :channels]
    return total.mT.reshape(weight.shape).to(weight.dtype)


def _of_bias(d_state: Tensor, blocks: Blocks, root: float, bias: Tensor) -> Tensor:
    """The sum of the output's gradient, kept as the last row of the state's."""
    total = d_state[:, -blocks.block_width :].sum(0)[: bias.shape[0]]
    return (total / root).to(bias.dtype)


def _sizes(x: Heads, blocks: Blocks) -> tuple[int, int, int, int]:
    return x.shape[1], blocks.tokens, blocks.splits, blocks.tokens_per_split


def focused_attention(
    q: Heads,
    k: Heads,
    v: Heads,
    inverse: Tensor,
    position: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    focus: Focus,
) -> Heads:
    """Return the formula of the module docstring; all tokens are on the grid.

    Args:
        q: queries.
        k: keys, as many as queries, without the position encoding.
        v: values.
        inverse: 1 / softplus(sigma) of each channel of all heads, float32.
        position: [1, tokens, channels], added to the keys.
        weight: filters of the local branch, [head_dim, 1, side, side].
        bias: one a channel of a head; given with `weight`.
        focus: p, epsilon and the grid.

    Raises:
        TypeError: a dtype that the kernels do not cover.
    """
    return _Focused.apply(q, k, v, inverse, position, weight, bias, focus)
