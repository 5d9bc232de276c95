"""Agent attention in three kernels and two backward: agents gather from tokens, tokens read.

    O = softmax(s Q P^T + B_q) softmax(s P K^T + B_k) V + L

No scores [a, N] are in memory; the convolution L is added where the output is written. Agents
(pooled queries) and biases come from the reference's own modules; backward, the gradients of biases
are written for each sequence and then summed over the batch, a N numbers a head.

Bytes of a layer's mix, e bytes a number, N tokens, C channels, a sequence: the agents read the
queries once, gathering reads k and v, reading reads q and v and writes the output: 6 N C e, and
biases, a N e a head, once a batch. Floor by a pass over each tensor: 4 N C e / copy bandwidth.
Backward: 8 N C e, and with biases 4 a N e a head.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attention_impls.shapes import Grid
from attention_impls.triton_parts.agent_backward import (
    gather_backward_kernel,
    read_backward_kernel,
)
from attention_impls.triton_parts.agent_forward import gather_kernel, join_kernel, read_kernel
from attention_impls.triton_parts.gaussian_low_rank import (
    like_stream,
    next_power_of_two,
    padded,
    tile_tokens,
)
from attention_impls.triton_parts.layout import Heads, blocks_of, launcher, rows, strides

BLOCK_TOKENS = 64
BACKWARD_BLOCK_TOKENS = 32
WARPS = 8
STAGES = 2


class _Mix(torch.autograd.Function):
    """The formula of the module docstring, agents given, as one differentiable operation."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        agents: Tensor,
        key_bias: Tensor | None,
        query_bias: Tensor | None,
        filters: Tensor | None,
        filter_bias: Tensor | None,
        grid: Grid,
    ) -> Tensor:
        sizes, heads, count = blocks_of(q), q.shape[1], agents.shape[2]
        scale, head_dim, block = q.shape[3] ** -0.5, q.shape[3], padded(count)
        exact = torch.float32
        by_run = q.new_empty((sizes.sequences, sizes.splits, count, head_dim), dtype=exact)
        most = q.new_empty((sizes.sequences, sizes.splits, block), dtype=exact)
        sums = torch.empty_like(most)
        launcher(gather_kernel, sizes.programs, q)(
            agents, k, v, agents if key_bias is None else key_bias, by_run, most, sums,
            *strides(k), *strides(v), *_bias_strides(key_bias, agents_last=False),
            heads, sizes.tokens, sizes.splits, sizes.tokens_per_split, count, scale,
            head_dim=head_dim, block_agents=block, block_width=sizes.block_width,
            block_tokens=tile_tokens(sizes, BLOCK_TOKENS), has_bias=key_bias is not None,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        gathered = q.new_empty((sizes.sequences, count, head_dim), dtype=exact)
        normalisers = q.new_empty((sizes.sequences, block), dtype=exact)
        launcher(join_kernel, sizes.sequences, q)(
            by_run, most, sums, gathered, normalisers, sizes.splits, count,
            head_dim=head_dim, block_agents=block, block_width=sizes.block_width, num_warps=WARPS,
        )  # fmt: skip
        out = like_stream(q)
        launcher(read_kernel, sizes.programs, q)(
            q, v, agents, gathered, agents if query_bias is None else query_bias,
            agents if filters is None else filters,
            agents if filter_bias is None else filter_bias, out,
            *strides(q), *strides(v), *strides(out), *_bias_strides(query_bias, agents_last=True),
            heads, sizes.tokens, sizes.splits, sizes.tokens_per_split, count, scale,
            sizes.tokens - grid.tokens, grid.height, grid.width,
            head_dim=head_dim, block_agents=block, block_width=sizes.block_width,
            block_tokens=tile_tokens(sizes, BLOCK_TOKENS), has_bias=query_bias is not None,
            side=0 if filters is None else filters.shape[-1],
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        ctx.save_for_backward(
            q, k, v, agents, key_bias, query_bias, filters, filter_bias, gathered, normalisers
        )
        ctx.grid = grid
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (
            q, k, v, agents, key_bias, query_bias, filters, filter_bias, gathered, normalisers,
        ) = ctx.saved_tensors  # fmt: skip
        grid, sizes, heads, count = ctx.grid, blocks_of(q), q.shape[1], agents.shape[2]
        scale, head_dim, block = q.shape[3] ** -0.5, q.shape[3], padded(count)
        side = 0 if filters is None else filters.shape[-1]
        upstream = rows(gradients[0])
        of_q, of_k, of_v = like_stream(q), like_stream(k), like_stream(v)
        of_query_bias = _scores(q, count, query_bias, agents_last=True)
        by_run = gathered.new_empty((sizes.sequences, sizes.splits, count, head_dim))
        read_by_run = torch.empty_like(by_run)
        launcher(read_backward_kernel, sizes.programs, q)(
            q, upstream, agents, gathered, agents if query_bias is None else query_bias,
            of_q, of_query_bias, by_run, read_by_run,
            *strides(q), *strides(upstream), *strides(of_q),
            *_bias_strides(query_bias, agents_last=True),
            heads, sizes.tokens, sizes.splits, sizes.tokens_per_split, count, scale,
            head_dim=head_dim, block_agents=block, block_width=sizes.block_width,
            block_tokens=tile_tokens(sizes, BACKWARD_BLOCK_TOKENS), has_bias=query_bias is not None,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        of_gathered, of_agents = read_by_run.sum(1), by_run.sum(1)
        of_key_bias = _scores(q, count, key_bias, agents_last=False)
        filters_by_run = gathered.new_empty((q.shape[0], heads, sizes.splits, side**2, head_dim))
        shifts_by_run = gathered.new_empty((q.shape[0], heads, sizes.splits, head_dim))
        launcher(gather_backward_kernel, sizes.programs, q)(
            k, v, upstream, agents, gathered, of_gathered, normalisers,
            agents if key_bias is None else key_bias, agents if filters is None else filters,
            of_k, of_v, of_key_bias, by_run, filters_by_run, shifts_by_run,
            *strides(k), *strides(v), *strides(upstream), *strides(of_k),
            *_bias_strides(key_bias, agents_last=False),
            heads, sizes.tokens, sizes.splits, sizes.tokens_per_split, count, scale,
            sizes.tokens - grid.tokens, grid.height, grid.width,
            head_dim=head_dim, block_agents=block, block_width=sizes.block_width,
            block_tokens=tile_tokens(sizes, BACKWARD_BLOCK_TOKENS), has_bias=key_bias is not None,
            side=side, places=next_power_of_two(side**2),
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        of_agents = (of_agents + by_run.sum(1)).to(agents.dtype).view_as(agents)
        of_filters = of_filter_bias = None
        if filters is not None and filter_bias is not None:
            by_place = filters_by_run.sum((0, 2)).transpose(1, 2)
            of_filters = by_place.reshape(filters.shape).to(filters.dtype)
            of_filter_bias = shifts_by_run.sum((0, 2)).flatten().to(filter_bias.dtype)
        return (
            of_q, of_k, of_v, of_agents, _over_batch(of_key_bias, key_bias),
            _over_batch(of_query_bias, query_bias), of_filters, of_filter_bias, None,
        )  # fmt: skip


def _bias_strides(bias: Tensor | None, *, agents_last: bool) -> tuple[int, int, int]:
    """Strides of heads, agents and tokens."""
    if bias is None:
        return 0, 0, 0
    _, head, second, third = bias.stride()
    return (head, third, second) if agents_last else (head, second, third)


def _scores(
    q: Tensor, agents: int, bias: Tensor | None, *, agents_last: bool
) -> Float[Tensor, "batch heads rows columns"]:
    """Room for the gradients of the scores of every sequence; none where no bias needs them."""
    batch, heads, tokens, _ = q.shape
    if bias is None:
        return q.new_empty((batch, heads, 0, 0))
    last = (tokens, agents) if agents_last else (agents, tokens)
    return q.new_empty((batch, heads, *last))


def _over_batch(of_scores: Tensor, bias: Tensor | None) -> Tensor | None:
    if bias is None:
        return None
    return of_scores.sum(0, keepdim=True, dtype=torch.float32).to(bias.dtype)


class FusedAgentMix(nn.Module):
    """The mix over the reference's own pooling, biases and filters."""

    def __init__(self, mix: nn.Module) -> None:
        """Take the parts of the reference's `mix`."""
        super().__init__()
        self.reference = mix

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Return O. Raises UnsupportedShape as the reference does."""
        reference: Any = self.reference
        first = q.shape[2] - grid.tokens
        reference.require(grid, k.shape[2], first)
        agents = reference.pooled(q[:, :, first:], grid).contiguous()
        key_bias = None if reference.key_bias is None else reference.key_bias()
        query_bias = None if reference.query_bias is None else reference.query_bias()
        local = reference.local
        return cast(
            Tensor,
            _Mix.apply(
                rows(q), rows(k), rows(v), agents, key_bias, query_bias,
                None if local is None else local.weight.contiguous(),
                None if local is None else local.bias, grid,
            ),
        )  # fmt: skip
