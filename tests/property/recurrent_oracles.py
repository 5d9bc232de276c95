"""Recurrences one token at a time, from a state of features x head_dim numbers."""

import torch
from torch import Tensor

from bench.stimulus import normal

LENGTHS = (1, 2, 5, 63, 64, 65, 130)
"""Around the tokens of a chunk and of two."""


def decayed_scan(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """S_t = decay_t S_{t-1} + k_t v_t^T, o_t = S_t^T q_t; decay is [..., tokens, 1 or features]."""
    state = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=v.dtype)
    outputs: list[Tensor] = []
    for t in range(q.shape[2]):
        written = k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        state = decay[:, :, t].unsqueeze(-1) * state + written
        outputs.append((q[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(outputs, 2)


def delta_scan(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, write: Tensor) -> Tensor:
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T, o_t = S_t^T q_t."""
    identity = torch.eye(q.shape[3], dtype=v.dtype)
    state = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=v.dtype)
    outputs: list[Tensor] = []
    for t in range(q.shape[2]):
        key, b = k[:, :, t].unsqueeze(-1), write[:, :, t].unsqueeze(-1)
        erased = (identity - b * (key @ key.mT)) @ state
        state = decay[:, :, t].unsqueeze(-1) * erased + b * key * v[:, :, t].unsqueeze(-2)
        outputs.append((q[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(outputs, 2)


def reversed_scan(scan, *tensors: Tensor) -> Tensor:
    """The scan from the last token to the first."""
    return scan(*(t.flip(2) for t in tensors)).flip(2)


def convolved(heads: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Causal depthwise convolution and silu by a loop over its taps; weight [channels, 1, size]."""
    _, count, tokens, head_dim = heads.shape
    size = weight.shape[2]
    by_head = weight.view(count, 1, head_dim, size)
    out = torch.zeros_like(heads)
    for tap in range(size):
        back = size - 1 - tap
        if back < tokens:
            out[:, :, back:] += by_head[..., tap] * heads[:, :, : tokens - back]
    if bias is not None:
        out = out + bias.view(count, 1, head_dim)
    return out * torch.sigmoid(out)


def inputs(batch: int, heads: int, tokens: int, width: int) -> list[Tensor]:
    """q, k, v of a core and the x beside them, float64."""
    shape = (batch, heads, tokens, width)
    q, k, v = (normal(name, shape, dtype=torch.float64) for name in "qkv")
    return [q, k, v, normal("x", (batch, tokens, heads * width), dtype=torch.float64)]
