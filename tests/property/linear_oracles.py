"""Dense and one-token-at-a-time forms of normalised linear attention, for any feature map."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

FeatureMap = Callable[[Tensor], Tensor]
FEATURE_MAPS: dict[str, FeatureMap] = {
    "linear_relu": F.relu,
    "linear_elu": lambda x: torch.where(x > 0, x + 1, x.exp()),
}
EPSILON = 1e-6


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
