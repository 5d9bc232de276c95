"""A small correct variant for the tests of the checks: causal, with a class token, a local branch.

    O_i = sum_j phi(q_i) . phi(k_j) v_j / sum_j phi(q_i) . phi(k_j) + w v_i
    phi(x) = elu(x) + 1 + 1e-6 or relu(x) + 1 + 1e-6

q_i, k_j, v_j: query, key, value of one head; w: one number a head (option local_size > 0).

Source: invented for the tests, https://example.org/toy.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyOptions:
    """Options of the toy."""

    feature_map: Literal["elu", "relu"] = "elu"
    """phi."""
    local_size: int = 1
    """1: the term w v_i; 0: none."""


class ToyMix(nn.Module):
    """Parameter: `local` [heads], if there is a local term."""

    def __init__(self, shape: AttentionShape, options: ToyOptions) -> None:
        super().__init__()
        self.causal = shape.causal
        self.map = F.elu if options.feature_map == "elu" else F.relu
        self.local = nn.Parameter(torch.zeros(shape.heads)) if options.local_size else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, grid: Grid) -> Tensor:
        queries, keys = self.map(q) + 1 + 1e-6, self.map(k) + 1 + 1e-6
        if self.causal:
            state = (keys.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)
            mixed = (queries.unsqueeze(-2) @ state).squeeze(-2)
            mixed = mixed / (queries * keys.cumsum(2)).sum(-1, keepdim=True)
        else:
            keys = keys / v.shape[2]
            mixed = (queries @ (keys.mT @ v)) / (queries @ keys.sum(2).unsqueeze(-1))
        return mixed if self.local is None else mixed + self.local.view(-1, 1, 1) * v


def make(shape: AttentionShape, options: ToyOptions) -> nn.Module:
    """Build the layer."""
    return MultiHead(shape, ToyMix(shape, options))


def core_flops(shape: AttentionShape, _options: ToyOptions) -> int:
    """2 B N C (2 d + 1): keys times values, queries times that, row sums."""
    return 2 * shape.batch * shape.tokens * shape.channels * (2 * shape.head_dim + 1)


def uncounted(shape: AttentionShape, _options: ToyOptions) -> tuple[int, str]:
    """2 B N C (d + 1) if causal."""
    if not shape.causal:
        return 0, "every product is a matrix product"
    flops = 2 * shape.batch * shape.tokens * shape.channels * (shape.head_dim + 1)
    return flops, "outer products and row sums are written as multiply-and-sum"


def state_floats(shape: AttentionShape, _options: ToyOptions) -> int:
    """C (d + 1)."""
    return shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map invented names onto ours."""
    return adopt_projections(official, ("to_q", "to_k", "to_v"), "to_out", {"gain": "local"})


SPEC = AttentionSpec(
    name="toy_linear",
    title="Toy",
    family="feature_map",
    paper=Paper(
        title="Toy", authors=("Nobody",), year=2024, venue="none", url="https://example.org/toy",
        equation="Equation 1", code="https://example.org/toy/code",
    ),
    revision=1,
    formula=r"O_i = \sum_j \phi(q_i)^\top \phi(k_j) v_j / \sum_j \phi(q_i)^\top \phi(k_j) + w v_i",
    deviations=("It was never published.",),
    scaling="No option depends on the grid.",
    options=ToyOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=True, any_grid=True, extra_tokens=True, permutation_equivariant=True,
        rows_sum_to_one=True, nonnegative_weights=True, approximates_softmax=False,
        deterministic_eval=True, continuous=True,
    ),
    uncounted=uncounted,
    adopt_official=adopt_official,
)  # fmt: skip
