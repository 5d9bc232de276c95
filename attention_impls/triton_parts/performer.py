"""Performer in three kernels and three backward: the features [N, r] are in no memory.

    O_i = phi(q_i) . sum_j phi(k_j) v_j^T / (phi(q_i) . sum_j phi(k_j)),
    phi(x) = exp(W x c - c^2 |x|^2 / 2 - largest) + e

Bytes of a layer's mix, b bytes a number, N tokens, C channels, a sequence: k and v for the state, q
and the output for reading it: 4 N C b, a pass over each tensor, where plain PyTorch writes and
reads r / d = ln d times as many numbers for the features of queries and keys each. Backward:
11 N C b. What binds are the products: with r = d ln d features, 8 N r d FLOPs a head forward.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attention_impls.shapes import Grid
from attention_impls.triton_parts.backend import interpreted
from attention_impls.triton_parts.gaussian_low_rank import (
    like_stream,
    next_power_of_two,
    tile_tokens,
)
from attention_impls.triton_parts.layout import Heads, blocks_of, launcher, rows, strides
from attention_impls.triton_parts.performer_backward import (
    key_backward_kernel,
    query_backward_kernel,
    state_backward_kernel,
)
from attention_impls.triton_parts.performer_forward import (
    join_kernel,
    key_state_kernel,
    read_kernel,
)

BLOCK_TOKENS = 32
BLOCK_FEATURES = 64
WARPS = 8
STAGES = 1


class _Mix(torch.autograd.Function):
    """The formula of the module docstring as one differentiable operation."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        projection: Tensor,
        scale: float,
        epsilon: float,
    ) -> Tensor:
        sizes, heads, head_dim = blocks_of(k), q.shape[1], q.shape[3]
        features = projection.shape[0]
        blocks = -(-features // BLOCK_FEATURES)
        exact, rough = _precisions(q)
        places = (sizes.sequences, sizes.splits, blocks)
        single = torch.float32
        partial = q.new_empty((*places, BLOCK_FEATURES, head_dim), dtype=single)
        sums = q.new_empty((*places, BLOCK_FEATURES), dtype=single)
        most = q.new_empty(places, dtype=single)
        of_values = q.new_empty((sizes.sequences, sizes.splits, head_dim), dtype=single)
        launcher(key_state_kernel, sizes.programs * blocks, q)(
            k, v, projection, partial, sums, most, of_values, *strides(k), *strides(v),
            heads, sizes.tokens, sizes.splits, sizes.tokens_per_split, features, blocks, scale,
            head_dim=head_dim, block_features=BLOCK_FEATURES, block_width=sizes.block_width,
            block_tokens=tile_tokens(sizes, BLOCK_TOKENS), exact=exact, rough=rough,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        held = (sizes.sequences, blocks * BLOCK_FEATURES)
        state = q.new_empty((*held, head_dim), dtype=single)
        totals = q.new_empty(held, dtype=single)
        most_of_head = q.new_empty((sizes.sequences,), dtype=single)
        launcher(join_kernel, sizes.sequences * blocks, q)(
            partial, sums, most, of_values, state, totals, most_of_head, sizes.tokens,
            sizes.splits, features, blocks, epsilon,
            head_dim=head_dim, block_features=BLOCK_FEATURES, block_width=sizes.block_width,
            block_partials=next_power_of_two(sizes.splits * blocks), num_warps=WARPS,
        )  # fmt: skip
        out = like_stream(q)
        most_of_row = q.new_empty((sizes.sequences, sizes.tokens), dtype=single)
        denominators = torch.empty_like(most_of_row)
        launcher(read_kernel, sizes.programs, q)(
            q, projection, state, totals, state.sum(1), totals.sum(1), out, most_of_row,
            denominators, *strides(q), *strides(out), heads, sizes.tokens, sizes.splits,
            sizes.tokens_per_split, features, blocks, scale, epsilon,
            head_dim=head_dim, block_features=BLOCK_FEATURES, block_width=sizes.block_width,
            block_tokens=tile_tokens(sizes, BLOCK_TOKENS), exact=exact, rough=rough,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        ctx.save_for_backward(
            q, k, v, projection, state, totals, most_of_head, out, most_of_row, denominators
        )
        ctx.scale, ctx.epsilon = scale, epsilon
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (
            q, k, v, projection, state, totals, most_of_head, out, most_of_row, denominators,
        ) = ctx.saved_tensors  # fmt: skip
        scale, epsilon, sizes = ctx.scale, ctx.epsilon, blocks_of(k)
        heads, head_dim, features = q.shape[1], q.shape[3], projection.shape[0]
        blocks = -(-features // BLOCK_FEATURES)
        exact, rough = _precisions(q)
        upstream = rows(gradients[0])
        of_q, of_k, of_v = like_stream(q), like_stream(k), like_stream(v)
        launcher(query_backward_kernel, sizes.programs, q)(
            q, out, upstream, projection, state, totals, most_of_row, denominators, of_q,
            *strides(q), *strides(out), *strides(upstream), *strides(of_q),
            heads, sizes.tokens, sizes.splits, sizes.tokens_per_split, features, blocks, scale,
            head_dim=head_dim, block_features=BLOCK_FEATURES, block_width=sizes.block_width,
            block_tokens=tile_tokens(sizes, BLOCK_TOKENS), exact=exact, rough=rough,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        by_run = state.new_empty((sizes.sequences, sizes.splits, *state.shape[1:]))
        sums_by_run = state.new_empty((sizes.sequences, sizes.splits, state.shape[1]))
        launcher(state_backward_kernel, sizes.programs * blocks, q)(
            q, out, upstream, projection, most_of_row, denominators, by_run, sums_by_run,
            *strides(q), *strides(out), *strides(upstream),
            heads, sizes.tokens, sizes.splits, sizes.tokens_per_split, features, blocks, scale,
            epsilon, head_dim=head_dim, block_features=BLOCK_FEATURES,
            block_width=sizes.block_width, block_tokens=tile_tokens(sizes, BLOCK_TOKENS),
            exact=exact, rough=rough,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        launcher(key_backward_kernel, sizes.programs, q)(
            k, v, projection, by_run.sum(1), sums_by_run.sum(1), most_of_head, of_k, of_v,
            *strides(k), *strides(v), *strides(of_k),
            heads, sizes.tokens, sizes.splits, sizes.tokens_per_split, features, blocks, scale,
            epsilon, head_dim=head_dim, block_features=BLOCK_FEATURES,
            block_width=sizes.block_width, block_tokens=tile_tokens(sizes, BLOCK_TOKENS),
            exact=exact, rough=rough,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        return of_q, of_k, of_v, None, None, None


def _precisions(x: Tensor) -> tuple[str, str]:
    """Of exponents, and of sums over features and tokens."""
    if x.dtype == torch.float32:
        return "tf32x3", "tf32x3"
    # the interpreter, which computes in float32 whatever it is told, refuses the name bf16x3
    return ("tf32x3" if interpreted() else "bf16x3"), "tf32"


class FusedPerformerMix(nn.Module):
    """The mix with the reference's own projection. Buffer: `projection`, W."""

    projection: Tensor

    def __init__(self, mix: nn.Module) -> None:
        """Take the drawn projection of the reference's `mix`."""
        super().__init__()
        reference: Any = mix
        self.register_buffer("projection", reference.projection)
        self.scale = float(reference.scale)
        self.epsilon = float(reference.epsilon)

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend; `x` and `grid` play no part."""
        w = self.projection.contiguous()
        return cast(Tensor, _Mix.apply(rows(q), rows(k), rows(v), w, self.scale, self.epsilon))
