"""MALA (magnitude-aware linear attention): weights that sharpen as the query grows.

    y_i = W_out (A_i * o_i)
    A_i = sum_j w_ij v_j + L_i
    w_ij = (s / N) (1 + 1 / (z_i + epsilon)) R_i phi(q_i) . R_j phi(k_j) - z_i / N
    z_i = (s / N) sum_j phi(q_i) . phi(k_j)

q_i, k_j, v_j: query, key and value of one head, each of d numbers; o_i: a linear map of the layer's
input, C numbers; N tokens; phi(x) = elu(x) + 1; s = 1 / sqrt(d); R_i: the rotation of rotary
positions, the same in every head: the first half of its pairs by the row of token i, the second
half by its column; L: a 5x5 depthwise convolution of the values on the grid. Without rotation the
rows sum to one up to epsilon: the mean that linear attention takes, plus s times the covariance of
keys and values seen by the query. Linear in N.

Fan, Huang, Ai, He, "Rectifying Magnitude Neglect in Linear Attention", ICCV 2025,
https://arxiv.org/abs/2507.00698.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.parts.elu_features import positive_features
from attention_impls.parts.gated_multihead import GatedMultiHead, adopt_gated
from attention_impls.parts.grid_rotation import head_rotation_limits, rotation_in_each_head
from attention_impls.parts.linear_attention import (
    key_value_mean,
    normalised_product_flops,
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
"""Added to z, as in the authors' code."""
LOCAL_SIZE = 5
"""Rows and columns of the filters of L."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MalaOptions:
    """Options of magnitude-aware linear attention."""

    rotary: bool = True
    """Rotate the features of queries and keys by their place on the grid (R)."""
    local_residual: bool = True
    """Add L, the depthwise convolution of the values."""
    qkv_bias: bool = True
    """The maps to queries, keys, values and gate have a bias."""


class MalaMix(nn.Module):
    """A of the module docstring. Parameters: `local` (the filters of L), if its option is on."""

    def __init__(self, shape: AttentionShape, options: MalaOptions) -> None:
        """Build; other grids than that of `shape` work, too."""
        super().__init__()
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
        scale = q.shape[3] ** -0.5
        q, k = positive_features(q), positive_features(k)
        sums = q @ (token_mean(k) * scale).mT
        # the factor of a row is multiplied onto its query, which is in float32 for half precision
        sharpened = q * ((sums + EPSILON).reciprocal() + 1).mul_(scale)
        if self.rotation is not None:
            sharpened, k = self.rotation(sharpened, grid), self.rotation(k, grid)
        out = sharpened.to(v.dtype) @ key_value_mean(k.to(v.dtype), v)
        out = torch.addcmul(out, sums.to(v.dtype), token_mean(v).to(v.dtype), value=-1)
        if self.local is None:
            return out
        return out.add_(convolve_channels(v, self.local.weight, self.local.bias, grid))


def own_limits(shape: AttentionShape, options: MalaOptions) -> tuple[str, ...]:
    """Rotated pairs must fill a head, half of them by row and half by column."""
    return head_rotation_limits(shape.head_dim) if options.rotary else ()


def make(shape: AttentionShape, options: MalaOptions) -> GatedMultiHead:
    """Build the layer."""
    return GatedMultiHead(shape, MalaMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: MalaOptions) -> int:
    """4 B N C d + 2 B N C, and with the local branch 50 B N C.

    B batch, N tokens, C channels, d head_dim: keys times values, queries times that, z; the
    convolution. The outer product of z and the mean value is broadcast, and the rotation is no
    contraction.
    """
    batch, channels = shape.batch, shape.channels
    mixing = normalised_product_flops(
        batch, shape.heads, shape.tokens, shape.head_dim, causal=False
    )
    if not options.local_residual:
        return mixing
    return mixing + local_convolution_flops(batch, shape.grid, channels, LOCAL_SIZE)


def state_floats(shape: AttentionShape, _options: MalaOptions) -> int:
    """C d + 2 C: the means of rotated k v^T, of k and of v; the local branch is not counted."""
    return shape.channels * (shape.head_dim + 2)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `AddLinearAttention`; its 1x1 convolutions are linear maps."""
    local = {f"lepe.{kind}": f"mix.local.{kind}" for kind in ("weight", "bias")}
    return adopt_gated(official, "qkvo", "proj", local)


SPEC = AttentionSpec(
    name="mala",
    title="Magnitude-aware linear attention (MALA)",
    family="feature_map",
    paper=Paper(
        title="Rectifying Magnitude Neglect in Linear Attention",
        authors=("Qihang Fan", "Huaibo Huang", "Yuang Ai", "Ran He"),
        year=2025,
        venue="ICCV",
        url="https://arxiv.org/abs/2507.00698",
        equation="the section on magnitude-aware linear attention: scale beta and offset gamma",
        code="https://github.com/qhfan/MALA/blob/"
        "7114e6391e16a79e52382cbbcaa7f035705f3449/classfication_release/model.py",
    ),
    revision=1,
    formula=r"A_i = \sum_j \left(\beta_i\, \tfrac{s}{N} (R_i \phi(q_i))^\top R_j \phi(k_j)"
    r" - \tfrac{z_i}{N}\right) v_j + \mathrm{DWC}_{5 \times 5}(V)_i, \quad"
    r" \beta_i = 1 + \tfrac{1}{z_i + \varepsilon}, \quad"
    r" z_i = \tfrac{s}{N} \phi(q_i)^\top \sum_j \phi(k_j), \quad y_i = W (A_i \odot o_i)",
    deviations=(
        (
            "As in the authors' code: scores have the factor s / N, epsilon is 1e-6, the rotary "
            "positions enter neither z nor the offset, and the gate has no activation."
        ),
        (
            "The published models use this layer in their first two stages and softmax attention, "
            "with the same gate and convolution, in the last two."
        ),
        (
            "The factors of a row are multiplied onto its query before the product with the state: "
            "the same function. In half precision features, z and rotation are in float32."
        ),
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows, and "
    "rotary positions reach places that were not seen in training.",
    options=MalaOptions(),
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
