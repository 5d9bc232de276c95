"""Tokens cut into chunks, and a state carried from chunk to chunk: how a recurrence is parallel.

Within a chunk everything is a product of matrices; from chunk to chunk only the state goes on, one
step a chunk instead of one a token.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

CHUNK_TOKENS = 64
"""Most tokens of a chunk: near head_dim, where FLOPs are smallest."""

Chunks = Float[Tensor, "batch heads chunks chunk width"]


def chunks_of(tokens: int, *, power_of_two: bool = False) -> tuple[int, int]:
    """Return the tokens of a chunk and the number of chunks: as few and as even as possible.

    Args:
        tokens: length of the sequence.
        power_of_two: round the tokens of a chunk up to a power of two.
    """
    chunks = math.ceil(tokens / CHUNK_TOKENS)
    chunk = math.ceil(tokens / chunks)
    if power_of_two:
        chunk = 1 << (chunk - 1).bit_length()
    return chunk, math.ceil(tokens / chunk)


def in_chunks(tensor: Float[Tensor, "batch heads tokens width"], chunk: int, chunks: int) -> Chunks:
    """[batch, heads, tokens, n] -> [batch, heads, chunks, chunk, n], zeros after the last token."""
    missing = chunk * chunks - tensor.shape[2]
    padded = F.pad(tensor, (0, 0, 0, missing)) if missing else tensor
    return padded.reshape(*tensor.shape[:2], chunks, chunk, tensor.shape[3])


def carried(
    decay: Float[Tensor, "#batch heads chunks #features 1"],
    update: Float[Tensor, "batch heads chunks features head_dim"],
    *,
    reverse: bool = False,
) -> Float[Tensor, "batch heads chunks features head_dim"]:
    """Return the state that each chunk starts from: state = decay * state + update.

    Args:
        decay: what a chunk leaves of the state that it started from.
        update: what a chunk adds.
        reverse: go from the last chunk to the first.
    """
    steps = list(zip(decay.unbind(2), update.unbind(2), strict=True))
    states = [torch.zeros_like(update[:, :, 0])]
    for kept, added in steps[:0:-1] if reverse else steps[:-1]:
        states.append(torch.addcmul(added, kept, states[-1]))
    return torch.stack(states[::-1] if reverse else states, 2)
