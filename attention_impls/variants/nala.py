"""NaLa (norm-aware linear attention): the norm of a query sets how sharp its features are.

    y = W_out (LayerNorm(A) * silu(G))
    A_i = sum_j (R_i f(q_i) . R_j g(k_j)) v_j / (sum_j f(q_i) . g(k_j) + N epsilon) + L_i
    f(q) = [max(e, 0)^p, max(-e, 0)^p],    e = q / |q|,    p = 3 (1/2 + tanh |q|)
    g(k) = [max(k, 0)^3, max(-k, 0)^3]

q_i, k_j, v_j: query, key and value of one head, each of d numbers, their features 2 d; G: a linear
map of the layer's input, C numbers a token; N tokens; R_i: the rotation of rotary positions, the
same in every head and for both signs: the first half of the pairs by the row of token i, the second
half by its column; L: a 5x5 depthwise convolution of the values on the grid. Linear in N.

Meng, Luo, Huo, Li, Wang, Li, Zhang, "Norm x Direction: Restoring the Missing Query Norm in Vision
Linear Attention", ICML 2026, https://arxiv.org/abs/2506.21137.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.parts.gated_multihead import GatedMultiHead, adopt_gated
from attention_impls.parts.grid_rotation import head_rotation_limits, rotation_in_each_head
from attention_impls.parts.linear_attention import (
    key_value_mean,
    normalised_queries,
    token_mean,
)
from attention_impls.parts.local_convolution import (
    channel_convolution,
    convolve_channels,
    local_convolution_flops,
)
from attention_impls.parts.polarity import split_by_sign
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits, square_projections

Heads = Float[Tensor, "batch heads tokens head_dim"]
Features = Float[Tensor, "batch heads tokens features"]
Stream = Float[Tensor, "batch tokens channels"]

EPSILON = 1e-6
"""Added to the mean of the unrotated weights of a row, as in the authors' code."""
POWER = 3
"""Power of the keys, and factor of that of the queries, as in the authors' code."""
LOCAL_SIZE = 5
"""Rows and columns of the filters of L."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NalaOptions:
    """Options of norm-aware linear attention."""

    rotary: bool = True
    """Rotate the features of queries and keys by their place on the grid (R)."""
    local_residual: bool = True
    """Add L, the depthwise convolution of the values."""
    qkv_bias: bool = True
    """The maps to queries, keys, values and gate have a bias."""


class NalaMix(nn.Module):
    """A of the module docstring. Parameters: `local` (the filters of L), if its option is on."""

    def __init__(self, shape: AttentionShape, options: NalaOptions) -> None:
        """Build; other grids than that of `shape` work, too."""
        super().__init__()
        self.rotation = (
            rotation_in_each_head(shape.grid, shape.head_dim, repeats=2) if options.rotary else None
        )
        self.local = (
            channel_convolution(shape.channels, LOCAL_SIZE) if options.local_residual else None
        )

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return A; `x` plays no part."""
        exact = torch.promote_types(v.dtype, torch.float32)
        queries = query_features(q.to(exact).contiguous())
        keys = key_features(k.to(exact).contiguous())
        mean_keys = token_mean(keys)
        queries = normalised_queries(queries, mean_keys.mT, EPSILON, exact)
        if v.dtype != exact:
            # a cube may be more than half precision can hold: keys become one in the mean
            unit = mean_keys.mean(3, keepdim=True).clamp_min(torch.finfo(exact).tiny)
            queries, keys = queries * unit, keys / unit
        if self.rotation is not None:
            queries, keys = self.rotation(queries, grid), self.rotation(keys, grid)
        out = queries.to(v.dtype) @ key_value_mean(keys.to(v.dtype), v)
        if self.local is None:
            return out
        return out.add_(convolve_channels(v, self.local.weight, self.local.bias, grid))


class NalaLayer(GatedMultiHead):
    """The layer. Parameters: those of GatedMultiHead, and `norm` (over the channels, before it)."""

    def __init__(self, shape: AttentionShape, options: NalaOptions) -> None:
        """Build for the channels of `shape`."""
        super().__init__(shape, NalaMix(shape, options), qkv_bias=options.qkv_bias)
        self.norm = nn.LayerNorm(shape.channels)

    def gated(self, mixed: Stream, x: Stream) -> Stream:
        """Return the normalised mixed values times silu of the gate."""
        return self.norm(mixed) * F.silu(self.gate(x))


def query_features(q: Heads) -> Features:
    """Return f(q), 0 for a query that is 0."""
    norm = torch.linalg.vector_norm(q, dim=3, keepdim=True)
    direction = q / norm.clamp_min(torch.finfo(q.dtype).tiny)
    return split_by_sign(direction.abs().pow(POWER * (norm.tanh() + 0.5)) * direction.sign())


def key_features(k: Heads) -> Features:
    """Return g(k)."""
    return split_by_sign(k.pow(POWER))


def own_limits(shape: AttentionShape, options: NalaOptions) -> tuple[str, ...]:
    """Rotated pairs must fill a head, half of them by row and half by column."""
    return head_rotation_limits(shape.head_dim) if options.rotary else ()


def make(shape: AttentionShape, options: NalaOptions) -> NalaLayer:
    """Build the layer."""
    return NalaLayer(shape, options)


def core_flops(shape: AttentionShape, options: NalaOptions) -> int:
    """8 B N C d + 4 B N C, and with the local branch 50 B N C.

    B batch, N tokens, C channels, d head_dim; 2 d features: keys times values, queries times that,
    row sums; the convolution. The rotation is no contraction.
    """
    batch, channels = shape.batch, shape.channels
    mixing = batch * shape.tokens * channels * (8 * shape.head_dim + 4)
    if not options.local_residual:
        return mixing
    return mixing + local_convolution_flops(batch, shape.grid, channels, LOCAL_SIZE)


def state_floats(shape: AttentionShape, _options: NalaOptions) -> int:
    """2 C d + 2 C: the means of rotated g(k) v^T and of g(k); the local branch is not counted."""
    return 2 * shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `NormAwareLinearAttn`."""
    kinds = ("weight", "bias")
    others = {f"lepe.{kind}": f"mix.local.{kind}" for kind in kinds}
    others |= {f"ln.{kind}": f"norm.{kind}" for kind in kinds}
    return adopt_gated(official, "qkvg", "out_proj", others)


SPEC = AttentionSpec(
    name="nala",
    title="Norm-aware linear attention (NaLa)",
    family="feature_map",
    paper=Paper(
        title="Norm x Direction: Restoring the Missing Query Norm in Vision Linear Attention",
        authors=(
            "Weikang Meng",
            "Yadan Luo",
            "Liangyu Huo",
            "Yingjian Li",
            "Yaowei Wang",
            "Xin Li",
            "Zheng Zhang",
        ),
        year=2026,
        venue="ICML",
        url="https://arxiv.org/abs/2506.21137",
        equation="the norm-aware feature maps of the authors' code",
        code="https://github.com/ZacharyMeng/NaLaFormer/blob/"
        "1f1c10aeab8cd9a665bf74cbc589b4737d23d5ca/NaLaformer/NALA.py",
    ),
    revision=1,
    formula=r"A_i = \frac{(R_i f(q_i))^\top \sum_j R_j g(k_j)\, v_j^\top}"
    r"{f(q_i)^\top \sum_j g(k_j) + N \varepsilon} + \mathrm{DWC}_{5 \times 5}(V)_i, \quad"
    r" f(q) = \left[\left(\tfrac{\pm q}{\lVert q \rVert}\right)_{+}^{p}\right], \quad"
    r" p = 3 \left(\tfrac12 + \tanh \lVert q \rVert\right), \quad"
    r" g(k) = \left[(\pm k)_{+}^{3}\right]",
    deviations=(
        (
            "This is the mechanism of the authors' code, whose features keep the two signs apart; "
            "the paper speaks of a similarity of directions by their cosines."
        ),
        (
            "The rotary positions enter the numerator alone, as in the code, so that the weights "
            "of a row need not sum to one."
        ),
        "A query that is zero has zero features; the authors' code divides by its norm, 0 / 0.",
        (
            "The queries are divided instead of the output, and sums over tokens are means: the "
            "same function. The authors' code computes everything after the projections in "
            "float32; here, for half precision, features, row sums and rotation are, and the keys "
            "of a head are divided by their mean feature, which its queries are multiplied by."
        ),
        (
            "The published models use this layer in their first two stages and softmax attention, "
            "with the same gate, norm and convolution, in the last two."
        ),
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows, and "
    "rotary positions reach places that were not seen in training.",
    options=NalaOptions(),
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
