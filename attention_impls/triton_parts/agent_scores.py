"""Pieces of the kernels of agent attention: scores, weights and position biases of a tile.

Symbols: q_n, k_n, v_n queries, keys, values [N, d] of a head, p_a agents [a, d], b_an and b_na the
position biases, s the scale. Scores and weights [a, N] exist in registers only, tile by tile; sums
and softmaxes are float32, operands of products have the dtype of the tokens. A program is one head
of one sequence and one run of its tokens; partial results of runs are stored and added in their
order, so that two calls give the same bits. e: bytes of a number of the tokens' tensors.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.tiles import product


@triton.jit
@no_type_check
def bias_tile(
    bias, agent_stride, token_stride, start, tokens, count,
    block_agents: tl.constexpr, block_tokens: tl.constexpr,
):  # fmt: skip
    """Biases of a tile [block_agents, block_tokens], float32, zeros beyond."""
    agent = tl.arange(0, block_agents)
    token = start + tl.arange(0, block_tokens)
    inside = (agent < count)[:, None] & (token < tokens)[None, :]
    where = agent[:, None] * agent_stride + token.to(tl.int64)[None, :] * token_stride
    return tl.load(bias + where, mask=inside, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def store_bias_tile(
    pointer, tile, agent_stride, token_stride, start, tokens, count,
    block_agents: tl.constexpr, block_tokens: tl.constexpr,
):  # fmt: skip
    """Write a tile [block_agents, block_tokens] of a gradient of scores."""
    agent = tl.arange(0, block_agents)
    token = start + tl.arange(0, block_tokens)
    inside = (agent < count)[:, None] & (token < tokens)[None, :]
    where = agent[:, None] * agent_stride + token.to(tl.int64)[None, :] * token_stride
    tl.store(pointer + where, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def gather_scores(
    keys, asked, bias, bias_agent, bias_token, start, tokens, count, scale,
    block_agents: tl.constexpr, block_tokens: tl.constexpr, has_bias: tl.constexpr,
):  # fmt: skip
    """Return s p_a . k_n + b_an of a tile of tokens: [block_agents, block_tokens]."""
    none = tl.zeros((block_agents, block_tokens), tl.float32)
    scores = product(asked, tl.trans(keys), none, keys.dtype) * scale
    if has_bias:
        scores += bias_tile(
            bias, bias_agent, bias_token, start, tokens, count, block_agents, block_tokens
        )
    return scores


@triton.jit
@no_type_check
def read_weights(
    queries, asked, bias, bias_agent, bias_token, start, tokens, count, scale,
    block_agents: tl.constexpr, block_tokens: tl.constexpr, has_bias: tl.constexpr,
):  # fmt: skip
    """Softmax_a(s q_n . p_a + b_na) of a tile of tokens: [block_tokens, block_agents]."""
    none = tl.zeros((block_tokens, block_agents), tl.float32)
    scores = product(queries, tl.trans(asked), none, queries.dtype) * scale
    if has_bias:
        tile = bias_tile(
            bias, bias_agent, bias_token, start, tokens, count, block_agents, block_tokens
        )
        scores += tl.trans(tile)
    real = tl.arange(0, block_agents) < count
    scores = tl.where(real[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    return weights / tl.sum(weights, axis=1)[:, None]
