"""Attention that loses keys at evaluation, without training again.

The rest of each row is made whole again. Rows that sum to one without negative weights are divided
by their sum, which is what removing keys before normalisation gives; rows of InLine are centred
again over the tokens that are left, its formula over fewer keys; others stay as they are.

After Han et al., "Bridging the Divide", NeurIPS 2024, https://arxiv.org/abs/2412.06590, section
4.2, which does not say how rows are made whole; the random tokens are drawn once for each query
from a fixed seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from attention_impls.multihead import merge_heads
from attention_impls.shapes import Grid
from attention_impls.spec import Traits
from bench.attention_matrix import Given, shared_matrix

_DRAW_SEED = 0


def neighbourhood(grid: Grid, side: int) -> Tensor:
    """Return which tokens [tokens, tokens] lie in the side x side square around each token."""
    rows = torch.arange(grid.tokens) // grid.width
    columns = torch.arange(grid.tokens) % grid.width
    reach = side // 2
    return ((rows[:, None] - rows).abs() <= reach) & ((columns[:, None] - columns).abs() <= reach)


def random_tokens(grid: Grid, counts: Tensor) -> Tensor:
    """Return as many random tokens for each query as `counts` says: [tokens, tokens]."""
    draws = torch.Generator().manual_seed(_DRAW_SEED)
    order = torch.rand(grid.tokens, grid.tokens, generator=draws).argsort(1).argsort(1)
    return order < counts[:, None]


def masked(weights: Tensor, removed: Tensor, traits: Traits) -> Tensor:
    """Return weights [heads, tokens, tokens] without the `removed` keys, made whole again.

    A row that loses every key becomes zero.
    """
    kept = ~removed
    rest = weights * kept
    if not traits.rows_sum_to_one:
        return rest
    if traits.nonnegative_weights:
        return rest / rest.sum(-1, keepdim=True).clamp(min=1e-12)
    left = kept.sum(-1, keepdim=True).clamp(min=1)
    mean = rest.sum(-1, keepdim=True) / left
    centred = (len(kept) / left) * (rest - mean) + 1 / left
    return centred * kept


@dataclass(slots=True)
class Masking:
    """A layer that computes with masked weights, image by image."""

    bare: nn.Module
    """The layer's mix without local branch, float64."""
    removed: Tensor
    traits: Traits

    def __call__(self, layer: nn.Module, given: tuple[Tensor, Grid], out: Tensor) -> Tensor:
        """Replace the layer's output (a forward hook)."""
        answers = [self._one(layer, x[None].double(), given[1]) for x in given[0]]
        difference = torch.cat(answers).to(out.dtype)
        # the projection is linear: what masking changes is added to what came out
        projection = cast("nn.Linear", layer.out)
        return out + nn.functional.linear(difference, projection.weight)

    def _one(self, layer: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        """Masked minus whole mix of one image: [1, tokens, channels]."""
        narrow = next(layer.parameters()).dtype
        project = cast("Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]", layer.project)
        q, k, v = (t.double() for t in project(x.to(narrow)))
        weights = shared_matrix(Given(self.bare, q, k, v, x, grid))
        change = masked(weights, self.removed, self.traits) - weights
        return merge_heads(change[None] @ v)
