"""Kernels of agent attention, backward: first of what the tokens read, then of what was gathered.

Symbols as in `agent_scores`; x' is the gradient of x.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.agent_scores import gather_scores, read_weights, store_bias_tile
from attention_impls.triton_parts.local_tiles import local_backward
from attention_impls.triton_parts.tiles import head_offset, load_rows, product, store_rows


@triton.jit
@no_type_check
def read_backward_kernel(
    q,
    upstream,
    agents,
    gathered,
    bias,
    of_q,
    of_bias,
    agents_partial,
    gathered_partial,
    q_batch,
    q_head,
    q_token,
    upstream_batch,
    upstream_head,
    upstream_token,
    of_q_batch,
    of_q_head,
    of_q_token,
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
    """Gradients of queries and of their scores, and a run's share of agents' and gathered values'.

    With w_na the weights and g_n the gradient of the output: w'_na = g_n . gathered_a,
    s'_na = w_na (w'_na - sum_b w_nb w'_nb), q'_n = s sum_a s'_na p_a, p'_a = s sum_n s'_na q_n,
    gathered'_a = sum_n w_na g_n.

    Bytes: q and g read, q' written: 3 N d e a head; where biases are learned, s' [N, a] written for
    the sum over the batch. Floor: that / copy bandwidth. Binds: memory.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    q += head_offset(matrix, heads, q_batch, q_head)
    upstream += head_offset(matrix, heads, upstream_batch, upstream_head)
    of_q += head_offset(matrix, heads, of_q_batch, of_q_head)
    bias += (matrix % heads).to(tl.int64) * bias_head
    of_bias += matrix.to(tl.int64) * tokens * count
    place = matrix.to(tl.int64) * count * head_dim
    asked = load_rows(agents + place, 0, count, head_dim, head_dim, block_agents, block_width)
    held = load_rows(gathered + place, 0, count, head_dim, head_dim, block_agents, block_width)
    of_agents = tl.zeros((block_agents, block_width), tl.float32)
    of_gathered = tl.zeros((block_agents, block_width), tl.float32)
    none = tl.zeros((block_tokens, block_width), tl.float32)
    no_scores = tl.zeros((block_tokens, block_agents), tl.float32)
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        queries = load_rows(q, start, tokens, q_token, head_dim, block_tokens, block_width)
        pull = load_rows(
            upstream, start, tokens, upstream_token, head_dim, block_tokens, block_width
        )
        weights = read_weights(
            queries, asked, bias, bias_agent, bias_token, start, tokens, count, scale,
            block_agents, block_tokens, has_bias,
        )  # fmt: skip
        of_weights = product(pull, tl.trans(held), no_scores, queries.dtype)
        mean = tl.sum(weights * of_weights, axis=1)
        of_scores = weights * (of_weights - mean[:, None])
        if has_bias:
            store_bias_tile(
                of_bias, tl.trans(of_scores), 1, count, start, tokens, count, block_agents,
                block_tokens,
            )  # fmt: skip
        of_scores *= scale
        store_rows(
            of_q, product(of_scores, asked, none, queries.dtype), start, tokens, of_q_token,
            head_dim, block_tokens, block_width,
        )  # fmt: skip
        of_agents = product(tl.trans(of_scores), queries, of_agents, queries.dtype)
        of_gathered = product(tl.trans(weights), pull, of_gathered, queries.dtype)
    place = tl.program_id(0).to(tl.int64) * count * head_dim
    store_rows(
        agents_partial + place, of_agents, 0, count, head_dim, head_dim, block_agents, block_width
    )
    store_rows(
        gathered_partial + place, of_gathered, 0, count, head_dim, head_dim, block_agents,
        block_width,
    )  # fmt: skip


@triton.jit
@no_type_check
def gather_backward_kernel(
    k,
    v,
    upstream,
    agents,
    gathered,
    of_gathered,
    normalisers,
    bias,
    filters,
    of_k,
    of_v,
    of_bias,
    agents_partial,
    filters_partial,
    filter_bias_partial,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    upstream_batch,
    upstream_head,
    upstream_token,
    of_k_batch,
    of_k_head,
    of_k_token,
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
    places: tl.constexpr,
):
    """Gradients of keys and values, and a run's share of those of agents and filters.

    With w_an the weights, G the gathered values and G' their gradient: v'_n = sum_a w_an G'_a
    (plus the filter's share), s'_an = w_an (G'_a . v_n - G'_a . G_a), k'_n = s sum_a s'_an p_a,
    p'_a = s sum_n s'_an k_n.

    Bytes: k, v and, with a filter, g read, k' and v' written: 5 N d e a head; where biases are
    learned, s' [a, N] written for the sum over the batch. Floor: that / copy bandwidth. Binds:
    memory.
    Measured: not yet.
    """
    matrix = tl.program_id(0) // splits
    part = tl.program_id(0) % splits
    head = matrix % heads
    k += head_offset(matrix, heads, k_batch, k_head)
    v += head_offset(matrix, heads, v_batch, v_head)
    upstream += head_offset(matrix, heads, upstream_batch, upstream_head)
    of_k += head_offset(matrix, heads, of_k_batch, of_k_head)
    of_v += head_offset(matrix, heads, of_k_batch, of_k_head)
    bias += head.to(tl.int64) * bias_head
    of_bias += matrix.to(tl.int64) * tokens * count
    place = matrix.to(tl.int64) * count * head_dim
    asked = load_rows(agents + place, 0, count, head_dim, head_dim, block_agents, block_width)
    held = load_rows(gathered + place, 0, count, head_dim, head_dim, block_agents, block_width)
    pull = load_rows(of_gathered + place, 0, count, head_dim, head_dim, block_agents, block_width)
    mean = tl.sum(pull.to(tl.float32) * held, axis=1)
    agent = tl.arange(0, block_agents)
    normaliser = tl.load(normalisers + matrix.to(tl.int64) * block_agents + agent)
    channel = tl.arange(0, block_width)
    of_agents = tl.zeros((block_agents, block_width), tl.float32)
    of_filters = tl.zeros((places, block_width), tl.float32)
    of_filter_bias = tl.zeros((block_width,), tl.float32)
    none = tl.zeros((block_tokens, block_width), tl.float32)
    no_scores = tl.zeros((block_agents, block_tokens), tl.float32)
    first = part * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, tokens), block_tokens):
        keys = load_rows(k, start, tokens, k_token, head_dim, block_tokens, block_width)
        values = load_rows(v, start, tokens, v_token, head_dim, block_tokens, block_width)
        scores = gather_scores(
            keys, asked, bias, bias_agent, bias_token, start, tokens, count, scale, block_agents,
            block_tokens, has_bias,
        )  # fmt: skip
        inside = start + tl.arange(0, block_tokens) < tokens
        felt = (agent < count)[:, None] & inside[None, :]
        weights = tl.where(felt, tl.exp(scores - normaliser[:, None]), 0.0)
        of_weights = product(pull, tl.trans(values), no_scores, keys.dtype)
        of_scores = weights * (of_weights - mean[:, None])
        if has_bias:
            store_bias_tile(
                of_bias, of_scores, tokens, 1, start, tokens, count, block_agents, block_tokens
            )
        of_scores *= scale
        of_agents = product(of_scores, keys, of_agents, keys.dtype)
        of_values = product(tl.trans(weights), pull, none, keys.dtype)
        if side > 0:
            token = start + tl.arange(0, block_tokens).to(tl.int64) - extra_tokens
            on_grid = (token >= 0) & (token < tokens - extra_tokens)
            near, share = local_backward(
                upstream + extra_tokens * upstream_token, values.to(tl.float32),
                filters + head * head_dim * (side * side), side * side,
                tl.where(on_grid, token, 0), on_grid, channel, channel < head_dim,
                upstream_token, height, width, side, places,
            )  # fmt: skip
            of_values += near
            of_filters += share
            own = load_rows(
                upstream, start, tokens, upstream_token, head_dim, block_tokens, block_width
            )
            of_filter_bias += tl.sum(tl.where(on_grid[:, None], own.to(tl.float32), 0.0), axis=0)
        store_rows(
            of_k, product(tl.trans(of_scores), asked, none, keys.dtype), start, tokens, of_k_token,
            head_dim, block_tokens, block_width,
        )  # fmt: skip
        store_rows(of_v, of_values, start, tokens, of_k_token, head_dim, block_tokens, block_width)
    program = tl.program_id(0).to(tl.int64)
    store_rows(
        agents_partial + program * count * head_dim, of_agents, 0, count, head_dim, head_dim,
        block_agents, block_width,
    )  # fmt: skip
    if side > 0:
        store_rows(
            filters_partial + program * (side * side) * head_dim, of_filters, 0, side * side,
            head_dim, head_dim, places, block_width,
        )  # fmt: skip
        tl.store(
            filter_bias_partial + program * head_dim + channel,
            of_filter_bias,
            mask=channel < head_dim,
        )
