"""Efficient additive attention (SwiftFormer): one mean of the queries gates every key.

    O_i = W (g * n(k_i)) + b + n(q_i),    g = sum_i a_i n(q_i),
    a = s / ||s||,    s_i = n(q_i) . w,    n(x) = x / ||x||

q_i, k_i: query and key of a token, each of C numbers, heads side by side; w: a learned vector of C
numbers; W, b: a learned map of C channels; * multiplies channel by channel; ||.|| is the Euclidean
norm, over the channels in n and over the N tokens in a. There are no values: keys take their place.
Linear in N; the heads of the layer play no part.

Shaker, Maaz, Rasheed, Khan, Yang, Khan, "SwiftFormer: Efficient Additive Attention for
Transformer-based Real-time Mobile Vision Applications", ICCV 2023,
https://arxiv.org/abs/2303.15446, section 3.2.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections, merge_heads
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import (
    AttentionSpec,
    NoOptions,
    Paper,
    StateDict,
    Traits,
    square_projections,
)

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]

_SMALLEST_NORM = 1e-12
"""A vector of this length or less is divided by this, as in the authors' code."""


def unit(x: Stream, dim: int) -> Stream:
    """Divide by the Euclidean norm over `dim`, in float32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.normalize(wide, dim=dim, eps=_SMALLEST_NORM)


class AdditiveMix(nn.Module):
    """O of the module docstring. Parameters: `weights` [1, channels], and those of `map`."""

    def __init__(self, shape: AttentionShape) -> None:
        """Build for the channels of `shape`; its grid plays no part."""
        super().__init__()
        self.weights = nn.Parameter(torch.empty(1, shape.channels).normal_())
        self.map = nn.Linear(shape.channels, shape.channels)

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return O; keys are what other mechanisms take as values."""
        size = v.shape[1], v.shape[3]
        queries = unit(merge_heads(q), 2)
        scores = unit(F.linear(queries, self.weights.to(queries.dtype)), 1)
        gate = scores.mT @ queries
        gated = (unit(merge_heads(v), 2) * gate).to(v.dtype)
        out = self.map(gated) + queries.to(v.dtype)
        return out.unflatten(2, size).transpose(1, 2)


def make(shape: AttentionShape, options: NoOptions) -> MultiHead:
    """Build the layer: projections of queries and keys, the mix, the output projection."""
    return MultiHead(shape, AdditiveMix(shape), qkv_bias=options.qkv_bias, streams="qv")


def core_flops(shape: AttentionShape, _options: NoOptions) -> int:
    """2 B N C^2 + 4 B N C: the map W, the scores, and the weighted sum of the queries.

    B batch, N tokens, C channels.
    """
    return 2 * shape.batch * shape.tokens * shape.channels * (shape.channels + 2)


def state_floats(shape: AttentionShape, _options: NoOptions) -> int:
    """C: the gate g."""
    return shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `EfficientAdditiveAttnetion` with num_heads=1."""
    # published as a column
    rest = {name: tensor.mT if name == "w_g" else tensor for name, tensor in official.items()}
    mix = {"w_g": "weights", "Proj.weight": "map.weight", "Proj.bias": "map.bias"}
    return adopt_projections(rest, ("to_query", "to_key"), "final", mix)


SPEC = AttentionSpec(
    name="additive_swift",
    title="Efficient additive attention",
    family="pooled",
    paper=Paper(
        title="SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile "
        "Vision Applications",
        authors=(
            "Abdelrahman Shaker",
            "Muhammad Maaz",
            "Hanoona Rasheed",
            "Salman Khan",
            "Ming-Hsuan Yang",
            "Fahad Shahbaz Khan",
        ),
        year=2023,
        venue="ICCV",
        url="https://arxiv.org/abs/2303.15446",
        equation="section 3.2, efficient additive attention",
        code="https://github.com/Amshaker/SwiftFormer/blob/"
        "4aa6cd67527baae00390b58134fa8954e06c5431/models/swiftformer.py",
    ),
    revision=1,
    formula=r"O_i = W \left( g \odot \hat k_i \right) + b + \hat q_i, \quad"
    r" g = \sum_i \frac{s_i}{\lVert s \rVert} \hat q_i, \quad s_i = \hat q_i^\top w, \quad"
    r" \hat x = \frac{x}{\lVert x \rVert}",
    deviations=(
        (
            "The paper divides the scores by sqrt(d). The authors' code does, too, and then "
            "divides them by their norm over the tokens, which undoes it; it is left out here."
        ),
        (
            "The norm of the scores over the tokens is in the authors' code alone; without it the "
            "gate would grow with the number of tokens."
        ),
        (
            "The authors' num_heads multiplies the width of queries and keys, and is 1 in all "
            "their networks. Here heads are cut from the channels and play no part."
        ),
        "In half precision norms and the gate are computed in float32.",
    ),
    scaling="There is nothing to scale; the gate grows at most with the root of the tokens.",
    options=NoOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=square_projections(3),
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=True,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
