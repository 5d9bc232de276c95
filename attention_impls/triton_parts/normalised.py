"""Linear attention with normalised rows in two passes forward and two backward.

    out_i = p_i^T S,    p_i = phi(q_i) / (phi(q_i) . k_mean + epsilon / N),
    S = (1 / N) sum_j phi(k_j) v_j^T,    k_mean = (1 / N) sum_j phi(k_j)

Backward, with g the gradient of the output and (x . y) a sum over the channels of a head:

    dp_i = S g_i,    t_i = dp_i . p_i,    dphi(q_i) = (dp_i - t_i k_mean) / denominator_i,
    dS = sum_i p_i g_i^T,    dk_mean = -sum_i t_i p_i,
    dphi(k_j) = (dS v_j + dk_mean) / N,    dv_j = dS^T phi(k_j) / N

The queries are divided, not the output, so that half precision holds every operand of a product.
Half of the division by N is done on dS, half on the results, for the same reason.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_impls.triton_parts.feature_maps import load_features, slopes
from attention_impls.triton_parts.layout import Blocks, Heads, blocks_of, launcher, rows, strides
from attention_impls.triton_parts.state import (
    accumulated,
    added,
    empty_partial,
    load_feature_sums,
    load_products,
    state_pointer,
    store_partial,
)
from attention_impls.triton_parts.tiles import head_offset, load_rows, product, store_rows


@triton.jit
@no_type_check
def denominators(queries, mean_k, floor):
    """[block_tokens]: phi(q_i) . k_mean + floor; 1 where that is 0, for tokens beyond the last."""
    total = tl.sum(queries * mean_k[None, :], 1) + floor
    return tl.where(total == 0.0, 1.0, total)


@triton.jit
@no_type_check
def apply_kernel(
    q,
    state,
    out,
    q_batch,
    q_head,
    q_token,
    out_batch,
    out_head,
    out_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    floor,
    feature_map: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """The output of each program's tokens.

    Bytes: q and out once, 2 N C e; a state, 4 (d + 2) d, for each program. Floor: bytes / copy
    bandwidth. Binds: memory; 2 d^2 FLOPs a token and head for 2 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(head, heads, q_batch, q_head)
    out += head_offset(head, heads, out_batch, out_head)
    own = state_pointer(state, head, block_width)
    mean_kv = load_products(own, block_width).to(q.dtype.element_ty)
    mean_k = load_feature_sums(own, block_width)
    for start in range(first, last, block_tokens):
        _, queries = load_features(
            q, start, last, q_token, head_dim, block_tokens, block_width, feature_map
        )
        normalised = queries / denominators(queries, mean_k, floor)[:, None]
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        result = product(normalised, mean_kv, nothing, mean_kv.dtype)
        store_rows(out, result, start, last, out_token, head_dim, block_tokens, block_width)


@triton.jit
@no_type_check
def apply_backward_kernel(
    q,
    upstream,
    state,
    dq,
    partial,
    q_batch,
    q_head,
    q_token,
    upstream_batch,
    upstream_head,
    upstream_token,
    dq_batch,
    dq_head,
    dq_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    floor,
    feature_map: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
):
    """Gradient of the queries, and partial gradients of the state.

    Bytes: q, the output's gradient and dq once, 3 N C e; a state and a partial gradient, each
    4 (d + 2) d, for each program. Floor: bytes / copy bandwidth. Binds: memory; 4 d^2 FLOPs a token
    and head for 3 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    q += head_offset(head, heads, q_batch, q_head)
    upstream += head_offset(head, heads, upstream_batch, upstream_head)
    dq += head_offset(head, heads, dq_batch, dq_head)
    own = state_pointer(state, head, block_width)
    mean_kv = load_products(own, block_width).to(q.dtype.element_ty)
    mean_k = load_feature_sums(own, block_width)
    d_state = tl.zeros((block_width, block_width), tl.float32)
    d_mean_k = tl.zeros((block_width,), tl.float32)
    for start in range(first, last, block_tokens):
        x, queries = load_features(
            q, start, last, q_token, head_dim, block_tokens, block_width, feature_map
        )
        gradient = load_rows(
            upstream, start, last, upstream_token, head_dim, block_tokens, block_width
        )
        denominator = denominators(queries, mean_k, floor)[:, None]
        normalised = queries / denominator
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        d_normalised = product(gradient, tl.trans(mean_kv), nothing, gradient.dtype)
        along = tl.sum(d_normalised * normalised, 1)[:, None]
        d_queries = (d_normalised - along * mean_k[None, :]) / denominator
        d_queries *= slopes(x, feature_map)
        store_rows(dq, d_queries, start, last, dq_token, head_dim, block_tokens, block_width)
        d_state = product(tl.trans(normalised), gradient, d_state, gradient.dtype)
        d_mean_k -= tl.sum(along * normalised, 0)
    unused = tl.zeros((block_width,), tl.float32)
    store_partial(partial, program, d_state, d_mean_k, unused, block_width)


@triton.jit
@no_type_check
def accumulate_backward_kernel(
    k,
    v,
    d_state,
    dk,
    dv,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    dk_batch,
    dk_head,
    dk_token,
    dv_batch,
    dv_head,
    dv_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    factor,
    feature_map: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
    state_stays: tl.constexpr,
):
    """Gradients of keys and values from that of the state, times `factor`.

    Bytes: k, v, dk and dv once, 4 N C e; a state, 4 (d + 2) d, for each program. Floor: bytes /
    copy bandwidth. Binds: memory; 4 d^2 FLOPs a token and head for 4 d e bytes. Measured: not yet.
    """
    program = tl.program_id(0)
    head = program // splits
    first = (program % splits) * tokens_per_split
    last = tl.minimum(first + tokens_per_split, tokens)
    k += head_offset(head, heads, k_batch, k_head)
    v += head_offset(head, heads, v_batch, v_head)
    dk += head_offset(head, heads, dk_batch, dk_head)
    dv += head_offset(head, heads, dv_batch, dv_head)
    own = state_pointer(d_state, head, block_width)
    if state_stays:
        d_products = load_products(own, block_width).to(k.dtype.element_ty)
    d_sum_k = load_feature_sums(own, block_width)
    for start in range(first, last, block_tokens):
        x, keys = load_features(
            k, start, last, k_token, head_dim, block_tokens, block_width, feature_map
        )
        values = load_rows(v, start, last, v_token, head_dim, block_tokens, block_width)
        nothing = tl.zeros((block_tokens, block_width), tl.float32)
        if not state_stays:
            d_products = load_products(own, block_width)
        d_keys = product(values, tl.trans(d_products), nothing, values.dtype) + d_sum_k[None, :]
        d_keys *= slopes(x, feature_map) * factor
        d_values = product(keys, d_products, nothing, values.dtype) * factor
        store_rows(dk, d_keys, start, last, dk_token, head_dim, block_tokens, block_width)
        store_rows(dv, d_values, start, last, dv_token, head_dim, block_tokens, block_width)


class _Normalised(torch.autograd.Function):
    """The formula of the module docstring."""

    @staticmethod
    def forward(ctx: Any, q: Heads, k: Heads, v: Heads, epsilon: float, feature_map: str) -> Heads:
        q, k, v = rows(q), rows(k), rows(v)
        blocks = blocks_of(q)
        state = accumulated(k, v, blocks, feature_map=feature_map, factor=1 / blocks.tokens)
        out = torch.empty_like(q)
        floor = epsilon / blocks.tokens
        launcher(apply_kernel, blocks.programs, q)(
            q, state, out, *strides(q), *strides(out), *_sizes(q, blocks), floor,
            *_meta(q, blocks, feature_map), num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, state)
        ctx.blocks, ctx.floor, ctx.feature_map = blocks, floor, feature_map
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Heads) -> tuple[Tensor, Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, state = ctx.saved_tensors
        blocks: Blocks = ctx.blocks
        upstream = rows(upstream)
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        partial = empty_partial(blocks, q)
        meta = _meta(q, blocks, ctx.feature_map)
        launcher(apply_backward_kernel, blocks.programs, q)(
            q, upstream, state, dq, partial, *strides(q), *strides(upstream), *strides(dq),
            *_sizes(q, blocks), ctx.floor, *meta,
            num_warps=blocks.warps, num_stages=blocks.backward_stages,
        )  # fmt: skip
        root = blocks.tokens**-0.5
        d_state = added(partial, blocks, root)
        launcher(accumulate_backward_kernel, blocks.programs, q)(
            k, v, d_state, dk, dv, *strides(k), *strides(v), *strides(dk), *strides(dv),
            *_sizes(q, blocks), root, *meta, blocks.state_stays,
            num_warps=blocks.warps, num_stages=blocks.backward_stages,
        )  # fmt: skip
        return dq, dk, dv, None, None


def _sizes(x: Heads, blocks: Blocks) -> tuple[int, int, int, int]:
    return x.shape[1], blocks.tokens, blocks.splits, blocks.tokens_per_split


def _meta(x: Heads, blocks: Blocks, feature_map: str) -> tuple[str, int, int, int]:
    return feature_map, x.shape[3], blocks.block_tokens, blocks.block_width


def normalised_attention(q: Heads, k: Heads, v: Heads, epsilon: float, feature_map: str) -> Heads:
    """Return the formula of the module docstring.

    Args:
        q: queries, before the feature map.
        k: keys, before the feature map.
        v: values.
        epsilon: added to the sum of the weights of a row.
        feature_map: one of those of `feature_maps.features` that are not negative.

    Raises:
        TypeError: a dtype that the kernels do not cover.
    """
    return _Normalised.apply(q, k, v, epsilon, feature_map)
