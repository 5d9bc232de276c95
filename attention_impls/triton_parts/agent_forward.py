"""Kernels of agent attention, forward: agents gather from the tokens, tokens read the agents.

Symbols as in `agent_scores`.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.agent_scores import gather_scores, read_weights
from attention_impls.triton_parts.local_tiles import local_sum
from attention_impls.triton_parts.tiles import head_offset, load_rows, product, store_rows


@triton.jit
@no_type_check
def gather_kernel(
    agents,
    k,
    v,
    bias,
    partial,
    partial_most,
    partial_sums,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    bias_head,
    bias_agent,
    bias_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    count,
    scale,
    head_dim: tl.constexpr,
    block_agents: tl.constexpr,
    block_width: tl.constexpr,
    block_tokens: tl.constexpr,
    has_bias: tl.constexpr,
):
    """A run's share of softmax_n(s p_a . k_n + b_an) v_n: sum, largest score, sum of weights.

    Bytes: k and v once, 2 N d e a head; biases a N e a head, from the caches for all but the first
    sequence of a batch. Floor: that / copy bandwidth. Binds: memory.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    k += head_offset(matrix, heads, k_batch, k_head)
    v += head_offset(matrix, heads, v_batch, v_head)
    bias += (matrix % heads).to(tl.int64) * bias_head
    own = agents + matrix.to(tl.int64) * count * head_dim
    asked = load_rows(own, 0, count, head_dim, head_dim, block_agents, block_width)
    most = tl.full((block_agents,), float("-inf"), tl.float32)
    sums = tl.zeros((block_agents,), tl.float32)
    total = tl.zeros((block_agents, block_width), tl.float32)
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        keys = load_rows(k, start, tokens, k_token, head_dim, block_tokens, block_width)
        values = load_rows(v, start, tokens, v_token, head_dim, block_tokens, block_width)
        scores = gather_scores(
            keys, asked, bias, bias_agent, bias_token, start, tokens, count, scale, block_agents,
            block_tokens, has_bias,
        )  # fmt: skip
        inside = start + tl.arange(0, block_tokens) < tokens
        scores = tl.where(inside[None, :], scores, float("-inf"))
        larger = tl.maximum(most, tl.max(scores, axis=1))
        shrunk = tl.exp(most - larger)
        weights = tl.exp(scores - larger[:, None])
        sums = sums * shrunk + tl.sum(weights, axis=1)
        total = product(weights, values, total * shrunk[:, None], keys.dtype)
        most = larger
    program = tl.program_id(0).to(tl.int64)
    store_rows(
        partial + program * count * head_dim, total, 0, count, head_dim, head_dim, block_agents,
        block_width,
    )  # fmt: skip
    agent = tl.arange(0, block_agents)
    tl.store(partial_most + program * block_agents + agent, most)
    tl.store(partial_sums + program * block_agents + agent, sums)


@triton.jit
@no_type_check
def join_kernel(
    partial,
    partial_most,
    partial_sums,
    gathered,
    normalisers,
    splits,
    count,
    head_dim: tl.constexpr,
    block_agents: tl.constexpr,
    block_width: tl.constexpr,
):
    """Join the shares of the runs of one head: what the agents gathered, log of the weights' sum.

    Bytes: runs x a d float32 a head. Floor: none of its own. Binds: the latency of one launch.
    Measured: not yet.
    """
    matrix = tl.program_id(0)
    agent = tl.arange(0, block_agents)
    most = tl.full((block_agents,), float("-inf"), tl.float32)
    sums = tl.zeros((block_agents,), tl.float32)
    total = tl.zeros((block_agents, block_width), tl.float32)
    for part in range(splits):
        place = (matrix * splits + part).to(tl.int64)
        theirs = tl.load(partial_most + place * block_agents + agent)
        larger = tl.maximum(most, theirs)
        kept = tl.exp(most - larger)
        added = tl.exp(theirs - larger)
        share = load_rows(
            partial + place * count * head_dim, 0, count, head_dim, head_dim, block_agents,
            block_width,
        )  # fmt: skip
        total = total * kept[:, None] + share * added[:, None]
        sums = sums * kept + tl.load(partial_sums + place * block_agents + agent) * added
        most = larger
    place = matrix.to(tl.int64)
    store_rows(
        gathered + place * count * head_dim, total / sums[:, None], 0, count, head_dim, head_dim,
        block_agents, block_width,
    )  # fmt: skip
    tl.store(normalisers + place * block_agents + agent, most + tl.log(sums))


@triton.jit
@no_type_check
def read_kernel(
    q,
    v,
    agents,
    gathered,
    bias,
    filters,
    filter_bias,
    out,
    q_batch,
    q_head,
    q_token,
    v_batch,
    v_head,
    v_token,
    out_batch,
    out_head,
    out_token,
    bias_head,
    bias_agent,
    bias_token,
    heads,
    tokens,
    splits,
    tokens_per_split,
    count,
    scale,
    extra_tokens,
    height,
    width,
    head_dim: tl.constexpr,
    block_agents: tl.constexpr,
    block_width: tl.constexpr,
    block_tokens: tl.constexpr,
    has_bias: tl.constexpr,
    side: tl.constexpr,
):
    """Out_n = softmax_a(s q_n . p_a + b_na) gathered_a + sum_p filter_p v_(n+p) + filter bias.

    Bytes: q read, out written, and v read if there is a filter (side > 0): 3 N d e a head; biases
    a N e a head, from the caches for all but the first sequence. Floor: that / copy bandwidth.
    Binds: memory.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    head = matrix % heads
    q += head_offset(matrix, heads, q_batch, q_head)
    v += head_offset(matrix, heads, v_batch, v_head)
    out += head_offset(matrix, heads, out_batch, out_head)
    bias += head.to(tl.int64) * bias_head
    place = matrix.to(tl.int64) * count * head_dim
    asked = load_rows(agents + place, 0, count, head_dim, head_dim, block_agents, block_width)
    held = load_rows(gathered + place, 0, count, head_dim, head_dim, block_agents, block_width)
    channel = tl.arange(0, block_width)
    none = tl.zeros((block_tokens, block_width), tl.float32)
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        queries = load_rows(q, start, tokens, q_token, head_dim, block_tokens, block_width)
        weights = read_weights(
            queries, asked, bias, bias_agent, bias_token, start, tokens, count, scale,
            block_agents, block_tokens, has_bias,
        )  # fmt: skip
        read = product(weights, held, none, queries.dtype)
        if side > 0:
            token = start + tl.arange(0, block_tokens).to(tl.int64) - extra_tokens
            on_grid = (token >= 0) & (token < tokens - extra_tokens)
            channels = head * head_dim
            read += local_sum(
                v + extra_tokens * v_token, filters + channels * (side * side), side * side,
                tl.where(on_grid, token, 0), on_grid, channel, channel < head_dim, v_token,
                height, width, side, False,
            )  # fmt: skip
            shift = tl.load(filter_bias + channels + channel, mask=channel < head_dim, other=0.0)
            read += tl.where(on_grid[:, None], shift.to(tl.float32)[None, :], 0.0)
        store_rows(out, read, start, tokens, out_token, head_dim, block_tokens, block_width)
