"""Dense and one-token-at-a-time forms of normalised linear attention, for any feature map."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from attention_impls import AttentionShape, Grid, load
from bench.stimulus import normal

FeatureMap = Callable[[Tensor], Tensor]
FEATURE_MAPS: dict[str, FeatureMap] = {
    "linear_relu": F.relu,
    "linear_elu": lambda x: torch.where(x > 0, x + 1, x.exp()),
}
EPSILON = 1e-6
HEADS, WIDTH = 2, 16


def qkv(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shape = (2, HEADS, tokens, WIDTH)
    return [normal(name, shape, dtype=torch.float64).to(dtype) for name in "qkv"]


def mixed(variant: str, *inputs: Tensor, causal: bool = False) -> Tensor:
    """What the variant's own mix makes of queries, keys and values like those of `qkv`."""
    tokens = inputs[0].shape[2]
    grid = Grid(1, tokens)
    mix = load(variant).build(AttentionShape(2, grid, HEADS, WIDTH, causal=causal)).mix
    return mix(*inputs, torch.zeros(2, tokens, HEADS * WIDTH, dtype=inputs[0].dtype), grid)


def dense(phi: FeatureMap, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """All weights in one matrix, rows divided by their sum and epsilon."""
    weights = phi(q) @ phi(k).mT
    weights = weights.tril() if causal else weights
    return weights @ v / (weights.sum(-1, keepdim=True) + EPSILON)


def recurrence(
    phi: FeatureMap, q: Tensor, k: Tensor, v: Tensor, epsilon: float = EPSILON
) -> Tensor:
    """The causal form, one token after the other, from a state of fixed size."""
    state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
    total = q.new_zeros(*q.shape[:2], q.shape[3])
    outputs: list[Tensor] = []
    for i in range(q.shape[2]):
        key, query = phi(k[:, :, i]), phi(q[:, :, i])
        state = state + key.unsqueeze(-1) * v[:, :, i].unsqueeze(-2)
        total = total + key
        numerator = (query.unsqueeze(-2) @ state).squeeze(-2)
        outputs.append(numerator / ((query * total).sum(-1, keepdim=True) + epsilon))
    return torch.stack(outputs, 2)
