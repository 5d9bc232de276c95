"""Gaussian attention through landmarks in three kernels, and four backward: SOFT and SOFT-Norm.

    O = K X (K^T V) + filter * V,   X from A by Newton's iteration (see `newton_kernels`)

Forward: the summary K^T V in runs of tokens; the inverse and X K^T V, one program a head; the
product with K together with the local convolution. Neither K [N, m] nor any step of the inverse is
in memory, distances take no pass of their own. Backward, K is formed again.

The landmarks themselves (pooling, convolution, LayerNorm, GELU) are the reference's own module.

Bytes of a layer's mix, e bytes a number, N tokens, C channels, a sequence: the landmarks read the
queries once (and copy them once, as heads are not contiguous in the projection's output), the
summary reads q and v, the product reads q and v and writes the output: 8 N C e. Floor by a pass
over each tensor: 3 N C e / copy bandwidth, which three dependent passes over q cannot reach unless
q stays in the caches. Backward: 2 N C e for the gradient of the weights, 5 N C e for the tokens.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attention_impls.shapes import Grid
from attention_impls.triton_parts.backend import interpreted
from attention_impls.triton_parts.gaussian_kernels import (
    apply_kernel,
    summary_kernel,
    tokens_backward_kernel,
)
from attention_impls.triton_parts.inverse_rule import InverseRule
from attention_impls.triton_parts.layout import Blocks, Heads, blocks_of, launcher, rows, strides
from attention_impls.triton_parts.newton_kernels import inverse_backward_kernel, inverse_kernel

Landmarks = Float[Tensor, "matrices landmarks head_dim"]

INVERSE_PRECISION = "tf32x3"
"""Of Newton's steps, which amplify rounding by the condition of A."""
WARPS = 8
STAGES = 1
BLOCK_TOKENS = 32
MOST_EXACT_WIDTH = 64
"""Wider heads have their float32 gradients by products of bfloat16 parts: 16 bits of each factor
instead of 21."""
"""Tiles of landmarks fill the shared memory that a pipeline of loads would need."""


class _Mix(torch.autograd.Function):
    """The formula of the module docstring as one differentiable operation."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        v: Tensor,
        landmarks: Tensor,
        filters: Tensor | None,
        grid: Grid,
        scale: float,
        rule: InverseRule,
        keep: bool,
    ) -> Tensor:
        sizes = blocks_of(q)
        heads, count, side = q.shape[1], landmarks.shape[1], _side(filters)
        partial = _summaries(q, v, landmarks, scale)
        block = padded(count)
        kept = rule.steps + 1 if keep and rule.unrolled else int(keep)
        iterates = landmarks.new_empty((sizes.sequences, kept, block, block))
        summary, weights = torch.empty_like(landmarks), torch.empty_like(landmarks)
        launcher(inverse_kernel, sizes.sequences, q)(
            landmarks, partial, iterates, summary, weights, sizes.splits, count,
            rule.ridge, rule.ridge if rule.ridge_in_scale else 0.0, rule.factor, rule.steps,
            halvings=rule.halvings, most_residual=rule.residual, normalised=rule.normalised,
            keep_all=keep and rule.unrolled, keep_last=keep, head_dim=q.shape[3],
            block_landmarks=block, block_width=sizes.block_width,
            precision=INVERSE_PRECISION,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        out = like_stream(v)
        launcher(apply_kernel, sizes.programs, q)(
            q, v, landmarks, weights, landmarks if filters is None else filters, out,
            *strides(q), *strides(v), *strides(out), heads, sizes.tokens, sizes.splits,
            sizes.tokens_per_split, count, scale, grid.height, grid.width,
            head_dim=q.shape[3], block_landmarks=block, block_width=sizes.block_width,
            block_tokens=tile_tokens(sizes, BLOCK_TOKENS), precision=_precision(q), side=side,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        ctx.save_for_backward(q, v, landmarks, filters, iterates, summary, weights)
        ctx.grid, ctx.scale, ctx.rule = grid, scale, rule
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, v, landmarks, filters, iterates, summary, weights = ctx.saved_tensors
        grid, scale, rule, sizes = ctx.grid, ctx.scale, ctx.rule, blocks_of(q)
        heads, count, side = q.shape[1], landmarks.shape[1], _side(filters)
        upstream = rows(gradients[0])
        partial = _summaries(q, upstream, landmarks, scale)
        of_summary, of_landmarks = torch.empty_like(landmarks), torch.empty_like(landmarks)
        launcher(inverse_backward_kernel, sizes.sequences, q)(
            landmarks, partial, iterates, summary, of_summary, of_landmarks, sizes.splits, count,
            rule.ridge, rule.ridge if rule.ridge_in_scale else 0.0, rule.factor, rule.steps,
            halvings=rule.halvings, most_residual=rule.residual, normalised=rule.normalised,
            unrolled=rule.unrolled, head_dim=q.shape[3], block_landmarks=padded(count),
            block_width=sizes.block_width, precision=INVERSE_PRECISION,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        of_q, of_v = like_stream(q), like_stream(v)
        by_run = landmarks.new_empty((sizes.sequences, sizes.splits, *landmarks.shape[1:]))
        filters_by_run = landmarks.new_empty((q.shape[0], heads, sizes.splits, side**2))
        # five tiles of landmarks, three products of TF32 parts each, would not fit on chip
        wide = q.dtype == torch.float32 and sizes.block_width > MOST_EXACT_WIDTH
        precision = "bf16x3" if wide and not interpreted() else _precision(q)
        launcher(tokens_backward_kernel, sizes.programs, q)(
            q, v, upstream, landmarks, weights, of_summary,
            landmarks if filters is None else filters, of_q, of_v, by_run, filters_by_run,
            *strides(q), *strides(v), *strides(upstream), *strides(of_q), heads, sizes.tokens,
            sizes.splits, sizes.tokens_per_split, count, scale, grid.height, grid.width,
            head_dim=q.shape[3], block_landmarks=padded(count), block_width=sizes.block_width,
            block_tokens=tile_tokens(sizes, 16 if wide else BLOCK_TOKENS), precision=precision,
            side=side, places=next_power_of_two(side**2),
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        of_landmarks += by_run.sum(1)
        of_filters = None
        if filters is not None:
            of_filters = filters_by_run.sum((0, 2)).to(filters.dtype).view_as(filters)
        return of_q, of_v, of_landmarks, of_filters, None, None, None, None


def next_power_of_two(size: int) -> int:
    """Return the least power of two that is not below `size`."""
    return 1 << max(0, size - 1).bit_length()


def padded(count: int) -> int:
    """Return the next power of two, at least the 16 rows that a tensor core takes."""
    return max(16, next_power_of_two(count))


def like_stream(x: Heads) -> Heads:
    """Return an empty tensor of these sizes in whose memory the heads of a token are together."""
    batch, heads, tokens, head_dim = x.shape
    return x.new_empty((batch, tokens, heads, head_dim)).transpose(1, 2)


def tile_tokens(sizes: Blocks, most: int) -> int:
    """Tokens that a kernel takes at a time: at most `most`, and a divisor of a program's share."""
    return min(most, sizes.block_tokens)


def _side(filters: Tensor | None) -> int:
    return 0 if filters is None else filters.shape[-1]


def _precision(x: Tensor) -> str:
    # the interpreter, which computes in float32 whatever it is told, refuses the name bf16x3
    return "tf32x3" if x.dtype == torch.float32 or interpreted() else "bf16x3"


def _summaries(
    points: Heads, values: Heads, landmarks: Landmarks, scale: float
) -> Float[Tensor, "matrices runs landmarks head_dim"]:
    """K^T values, a partial sum for each run of tokens."""
    sizes = blocks_of(points)
    partial = landmarks.new_empty((sizes.sequences, sizes.splits, *landmarks.shape[1:]))
    launcher(summary_kernel, sizes.programs, points)(
        points, values, landmarks, partial, *strides(points), *strides(values), points.shape[1],
        sizes.tokens, sizes.splits, sizes.tokens_per_split, landmarks.shape[1], scale,
        head_dim=points.shape[3], block_landmarks=padded(landmarks.shape[1]),
        block_width=sizes.block_width, block_tokens=tile_tokens(sizes, BLOCK_TOKENS),
        precision=_precision(points),
            num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return partial


class FusedGaussianLowRank(nn.Module):
    """The mix over the reference's own landmarks and filters."""

    def __init__(self, mix: nn.Module, rule: InverseRule) -> None:
        """Take the parameters of the reference's `mix`."""
        super().__init__()
        reference: Any = mix
        self.scale = float(reference.scale)
        self.landmarks = cast("nn.Module", reference.landmarks)
        self.local = cast("nn.Parameter | None", reference.local)
        self.rule = rule

    def forward(
        self,
        q: Heads,
        k: Heads,  # noqa: ARG002
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Mix `v`; the keys are the queries, `k` and `x` play no part."""
        landmarks = self.landmarks(q.flatten(0, 1), grid).float().contiguous()
        filters = None if self.local is None else self.local.contiguous()
        keep = torch.is_grad_enabled()
        return cast(
            Tensor,
            _Mix.apply(rows(q), rows(v), landmarks, filters, grid, self.scale, self.rule, keep),
        )
