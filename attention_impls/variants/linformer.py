"""Linformer: softmax attention over keys and values that are projected along the token axis.

    O = softmax(Q (E K)^T / sqrt(d)) (F V)

Q, K, V: queries, keys, values [N, d] of one head; E, F: learned maps [k, N] from the N tokens to k
projected ones, shared by the heads of a layer. E and F have a column a token: a layer belongs to
the grid it was built for.

Wang et al., "Linformer: Self-Attention with Linear Complexity", 2020,
https://arxiv.org/abs/2006.04768, equation 7. The authors published no usable code; the widely used
module is lucidrains/linformer. Where the two differ, see `deviations`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinformerOptions:
    """Options of Linformer."""

    projected_tokens: int = 256
    """Tokens k that keys and values are projected to; may exceed the number of tokens."""
    sharing: Literal["none", "keys_values"] = "none"
    """`keys_values`: one map for both, E = F."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.projected_tokens < 1:
            raise ValueError(f"projected_tokens is {self.projected_tokens}, must be >= 1")


class LinformerMix(nn.Module):
    """Parameters: `keys` and, unless shared, `values` [tokens, k]: E and F, transposed."""

    def __init__(self, shape: AttentionShape, options: LinformerOptions) -> None:
        """Build for the grid of `shape` and no other."""
        super().__init__()
        self.grid = shape.grid
        size = (shape.tokens, options.projected_tokens)
        self.keys = nn.Parameter(torch.empty(size))
        self.values = nn.Parameter(torch.empty(size)) if options.sharing == "none" else None
        bound = options.projected_tokens**-0.5
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Attend. Raises UnsupportedShape on any grid but the one it was built for."""
        if grid != self.grid:
            raise UnsupportedShape(
                f"linformer: built for grid {self.grid}, got {grid}; its projections have one "
                "column a token, so build a layer for each grid"
            )
        keys = _project(k, self.keys) * q.shape[-1] ** -0.5
        values = _project(v, self.keys if self.values is None else self.values)
        weights = torch.matmul(q, keys.transpose(-1, -2)).softmax(-1)
        return torch.matmul(weights, values)


def _project(
    heads: Float[Tensor, "batch heads tokens head_dim"],
    weight: Float[Tensor, "tokens projected"],
) -> Float[Tensor, "batch heads projected head_dim"]:
    batch, count, tokens, head_dim = heads.shape
    # one product for all heads: side by side they are the rows of the layer's own projection
    stream = heads.transpose(1, 2).reshape(batch, tokens, count * head_dim)
    projected = torch.bmm(weight.T.expand(batch, -1, -1), stream)
    return projected.unflatten(2, (count, head_dim)).transpose(1, 2)


def make(shape: AttentionShape, options: LinformerOptions) -> nn.Module:
    """Build the layer."""
    return MultiHead(shape, LinformerMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: LinformerOptions) -> int:
    """FLOPs of one mix: 8 B N k C. Projecting keys and values 4, scores 2, weighted sum 2."""
    return 8 * shape.batch * shape.tokens * options.projected_tokens * shape.channels


def state_floats(shape: AttentionShape, options: LinformerOptions) -> int:
    """Numbers a query needs: projected keys and values, k C each."""
    return 2 * options.projected_tokens * shape.channels


def order(_options: LinformerOptions) -> float:
    """Exponent in tokens."""
    return 1.0


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the names of lucidrains' LinformerSelfAttention onto ours.

    Its share_kv makes the values the keys: our value projection becomes a copy of the key
    projection. Its one_kv_head has keys and values of one head: each of our heads gets a copy.
    """
    filled = dict(official)
    if "to_v.weight" not in filled:
        filled["to_v.weight"] = filled["to_k.weight"]
    copies = filled["to_q.weight"].shape[0] // filled["to_k.weight"].shape[0]
    for name in ("to_k.weight", "to_v.weight"):
        filled[name] = filled[name].repeat(copies, 1)
    mapping = {"proj_k": "keys", "proj_v": "values"}
    return adopt_projections(filled, ("to_q", "to_k", "to_v"), "to_out", mapping)


SPEC = AttentionSpec(
    name="linformer",
    title="Linformer",
    family="low_rank",
    paper=Paper(
        title="Linformer: Self-Attention with Linear Complexity",
        authors=("Sinong Wang", "Belinda Z. Li", "Madian Khabsa", "Han Fang", "Hao Ma"),
        year=2020,
        venue="arXiv",
        url="https://arxiv.org/abs/2006.04768",
        equation="Equation 7",
        code="https://github.com/lucidrains/linformer/tree/970e1c3f12fbdc494f60a2bed5e807563850f585",
    ),
    revision=1,
    formula=r"O = \mathrm{softmax}\!\left(\frac{Q (E K)^\top}{\sqrt d}\right) F V",
    deviations=(
        (
            "The paper has a pair of maps for each head and shares them by choice; here, as in "
            "lucidrains' code, the heads of a layer share one pair. sharing='keys_values' is the "
            "paper's key-value sharing, E = F; sharing between layers is not a property of a "
            "layer."
        ),
        (
            "lucidrains' share_kv also makes the values the keys; its weights load, and give the "
            "same function, as a layer whose value projection is a copy of its key projection."
        ),
        (
            "lucidrains' code slices the maps for sequences shorter than the one it was built for; "
            "here any other grid is refused, because a column of the maps belongs to a place."
        ),
        (
            "projected_tokens may exceed the number of tokens, as with the default 256 on 196 "
            "tokens: the layer then costs more than softmax attention and approximates nothing by "
            "rank."
        ),
        ("The published projections have no bias; qkv_bias=True adds one, as other variants have."),
    ),
    scaling=(
        "The 256 projected tokens stay 256, so cost is linear in tokens; the maps, and with them "
        "the parameters, grow with the tokens, and each grid needs its own layer."
    ),
    options=LinformerOptions(),
    make=make,
    core_flops=core_flops,
    order=order,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=False,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
