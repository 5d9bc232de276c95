"""RALA (rank-augmented linear attention): keys weighted by a global query, values gated by token.

    y_i = W_out (A_i * o_i)
    A_i = sum_j (R_i phi(q_i) . R_j k'_j) v_j / (sum_j phi(q_i) . k'_j + N epsilon) + L_i
    k'_j = N softmax_j(s phi(k_j) . q_mean) phi(k_j)

q_i, k_j, v_j: query, key and value of one head, each of d numbers; o_i: a linear map of the layer's
input, C numbers; N tokens; phi(z) = elu(z) + 1; q_mean the mean of phi(q_i) over i; s = 1/sqrt(d);
R_i: the rotation of rotary positions, the same in every head: the first half of its pairs by the
row of token i, the second half by its column; L: a 5x5 depthwise convolution of the values on the
grid. The weights of the keys raise the rank of the state sum_j R_j k'_j v_j^T, the gate that of the
output. Linear in N.

Fan, Huang, He, "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025,
https://arxiv.org/abs/2411.07635.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.parts.elu_features import positive_features
from attention_impls.parts.gated_multihead import GatedMultiHead, adopt_gated
from attention_impls.parts.grid_rotation import head_rotation_limits, rotation_in_each_head
from attention_impls.parts.linear_attention import (
    key_value_mean,
    normalised_product_flops,
    normalised_queries,
    token_mean,
)
from attention_impls.parts.local_convolution import (
    channel_convolution,
    convolve_channels,
    local_convolution_flops,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits, square_projections

Heads = Float[Tensor, "batch heads tokens head_dim"]

EPSILON = 1e-6
"""Added to the mean of the unrotated weights of a row, as in the authors' code."""
LOCAL_SIZE = 5
"""Rows and columns of the filters of L."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RalaOptions:
    """Options of rank-augmented linear attention."""

    weighted_keys: bool = True
    """Weight the keys by their softmax similarity to the mean query."""
    rotary: bool = True
    """Rotate the features of queries and keys by their place on the grid (R)."""
    local_residual: bool = True
    """Add L, the depthwise convolution of the values."""
    qkv_bias: bool = True
    """The maps to queries, keys, values and gate have a bias."""


class RalaMix(nn.Module):
    """A of the module docstring. Parameters: `local` (the filters of L), if its option is on."""

    def __init__(self, shape: AttentionShape, options: RalaOptions) -> None:
        """Build; other grids than that of `shape` work, too."""
        super().__init__()
        self.weighted_keys = options.weighted_keys
        self.rotation = (
            rotation_in_each_head(shape.grid, shape.head_dim) if options.rotary else None
        )
        self.local = (
            channel_convolution(shape.channels, LOCAL_SIZE) if options.local_residual else None
        )

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Return A; `x` plays no part."""
        values = v
        q, k = positive_features(q), positive_features(k)
        share = self.logarithm_of_share(q, k) if self.weighted_keys else None
        if share is None:
            mean_k = token_mean(k).mT
        elif k.dtype == v.dtype:
            k = k * share.exp()
            mean_k = token_mean(k).mT
        else:
            # a share of up to N is more than half precision can hold: half of it goes to each side
            root = (share / 2).exp()
            k, values = k * root, (v * root).to(v.dtype)
            mean_k = token_mean(k * root).mT
        q = normalised_queries(q, mean_k, EPSILON, q.dtype)
        if self.rotation is not None:
            q, k = self.rotation(q, grid), self.rotation(k, grid)
        out = q.to(v.dtype) @ key_value_mean(k.to(v.dtype), values)
        if self.local is None:
            return out
        return out.add_(convolve_channels(v, self.local.weight, self.local.bias, grid))

    def logarithm_of_share(self, q: Heads, k: Heads) -> Float[Tensor, "batch heads tokens 1"]:
        """Return log(N softmax_j(s k_j . q_mean)) for features q and k."""
        scores = k @ (token_mean(q) * q.shape[3] ** -0.5).mT
        return scores.log_softmax(2) + math.log(k.shape[2])


def own_limits(shape: AttentionShape, options: RalaOptions) -> tuple[str, ...]:
    """Rotated pairs must fill a head, half of them by row and half by column."""
    return head_rotation_limits(shape.head_dim) if options.rotary else ()


def make(shape: AttentionShape, options: RalaOptions) -> GatedMultiHead:
    """Build the layer."""
    return GatedMultiHead(shape, RalaMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: RalaOptions) -> int:
    """4 B N C d + 2 B N C, with weighted keys 2 B N C, with the local branch 50 B N C.

    B batch, N tokens, C channels, d head_dim: keys times values, queries times that, row sums; keys
    times the mean query; the convolution. The rotation is no contraction.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    mixing = normalised_product_flops(batch, shape.heads, tokens, shape.head_dim, causal=False)
    if options.weighted_keys:
        mixing += 2 * batch * tokens * channels
    if not options.local_residual:
        return mixing
    return mixing + local_convolution_flops(batch, shape.grid, channels, LOCAL_SIZE)


def state_floats(shape: AttentionShape, options: RalaOptions) -> int:
    """C d + C for the means of k' v^T and k', and C for the mean query; the local branch is out."""
    return shape.channels * (shape.head_dim + 1 + options.weighted_keys)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `GateLinearAttentionNoSilu`; its 1x1 convolutions are linear maps."""
    local = {f"lepe.{kind}": f"mix.local.{kind}" for kind in ("weight", "bias")}
    return adopt_gated(official, "qkvo", "proj", local)


SPEC = AttentionSpec(
    name="rala",
    title="Rank-augmented linear attention (RALA)",
    family="feature_map",
    paper=Paper(
        title="Breaking the Low-Rank Dilemma of Linear Attention",
        authors=("Qihang Fan", "Huaibo Huang", "Ran He"),
        year=2025,
        venue="CVPR",
        url="https://arxiv.org/abs/2411.07635",
        equation="the section on rank-augmented linear attention",
        code="https://github.com/qhfan/RALA/blob/"
        "a86314f62103c21a1c7e6d826fe4cb0f5586e7b0/classfication/RALA.py",
    ),
    revision=1,
    formula=r"A_i = \frac{(R_i \phi(q_i))^\top \sum_j R_j k'_j\, v_j^\top}"
    r"{\phi(q_i)^\top \sum_j k'_j + N \varepsilon} + \mathrm{DWC}_{5 \times 5}(V)_i, \quad"
    r" k'_j = N\, \mathrm{softmax}_j\left(s\, \bar q^\top \phi(k_j)\right) \phi(k_j), \quad"
    r" y_i = W (A_i \odot o_i)",
    deviations=(
        (
            "As in the authors' code, the rotary positions enter the numerator alone, so that the "
            "weights of a row need not sum to one; the gate has no activation."
        ),
        (
            "The published models use this layer in their first two stages and softmax attention, "
            "with the same gate and convolution, in the last two."
        ),
        (
            "The queries are divided instead of the output, and sums over tokens are means: the "
            "same function. In half precision features, shares, row sums and rotation are in "
            "float32, and the root of its share is multiplied onto each key and onto each value."
        ),
        "Where every head has 4 channels, the only frequency of a row or column is 1, as coded.",
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows, and "
    "rotary positions reach places that were not seen in training.",
    options=RalaOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=square_projections(5),
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=False,
        permutation_equivariant=False,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    own_limits=own_limits,
    adopt_official=adopt_official,
)
