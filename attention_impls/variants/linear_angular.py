"""Linear-angular attention (Castling-ViT): the linear part of an angular similarity.

    O_i = n(v_i / 2 + (1/pi) u(q_i)^T sum_j u(k_j) v_j^T) + L_i,    u(x) = x / ||x||,  n = u

q_i, k_j, v_j: query, key and value of one head, each of d numbers; j runs over the N tokens; ||.||
the Euclidean norm over d, which u applies to queries and keys and n to the sum. The similarity
1 - angle(q, k) / pi is 1/2 + (1/pi) cos + odd higher powers; the linear part of it needs no N x N
weights. L is a convolution of each head's values along the sequence of tokens, 9 tokens wide, one
filter a head. With `sparse`, softmax weights above a threshold times the values are added inside n:
quadratic, meant for training.

You, Xiong, Dai, Wu, Zhang, Fan, Vajda, Lin, "Castling-ViT: Compressing Self-Attention via Switching
Towards Linear-Angular Attention at Vision Transformer Inference", CVPR 2023,
https://arxiv.org/abs/2211.10526, section 4.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.headwise_conv import headwise_conv, headwise_conv_flops
from attention_impls.parts.linear_attention import key_value_mean
from attention_impls.parts.thresholded_attention import attention_above
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]

SMALLEST_NORM = 1e-12
"""A vector of this length or less is divided by this; the authors' code divides by zero there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAngularOptions:
    """Options of linear-angular attention."""

    local_residual: bool = True
    """Add L, the convolution of the values along the sequence."""
    local_size: int = 9
    """Tokens under a filter of L; odd."""
    sparse: bool = False
    """Add softmax attention with its weights up to `threshold` set to 0: quadratic in tokens."""
    threshold: int | float = 0.02
    """Largest softmax weight that is left out."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.local_size < 1 or self.local_size % 2 == 0:
            raise ValueError(f"local_size is {self.local_size}, must be odd and >= 1")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}, must be in 0..1")


class LinearAngularMix(nn.Module):
    """The formula of the module docstring. Parameters: `filters` [heads, 1, size, 1], if any."""

    def __init__(self, shape: AttentionShape, options: LinearAngularOptions) -> None:
        """Build for the heads of `shape`; its grid plays no part."""
        super().__init__()
        self.threshold = options.threshold if options.sparse else None
        size = (options.local_size, 1)
        self.filters = (
            nn.Conv2d(shape.heads, shape.heads, size, groups=shape.heads, bias=False).weight
            if options.local_residual
            else None
        )

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return O; class tokens are the first of the sequence, for L too."""
        tokens = q.shape[2]
        accumulator = torch.promote_types(q.dtype, torch.float32)
        # the norms of N queries divide their outputs, and the values take those of the keys
        state = key_value_mean(k, v * inverse_norm(k).to(v.dtype))
        angular = (q @ state).to(accumulator) * (inverse_norm(q) * (tokens / math.pi))
        out = angular.add_(v, alpha=0.5)
        if self.threshold is not None:
            out = out + attention_above(q, k, v, self.threshold)
        out = (out * inverse_norm(out)).to(v.dtype)
        if self.filters is None:
            return out
        return out.add_(headwise_conv(v, self.filters, Grid(tokens, 1)))


def inverse_norm(x: Heads) -> Float[Tensor, "batch heads tokens 1"]:
    """1 / ||x|| over the channels of a head, in float32 or better."""
    accumulator = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=3, keepdim=True, dtype=accumulator)
    return norm.clamp_min(SMALLEST_NORM).reciprocal()


def make(shape: AttentionShape, options: LinearAngularOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, LinearAngularMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: LinearAngularOptions) -> int:
    """4 B N C d, with the convolution 2 B N C s more, with `sparse` 4 B N^2 C more.

    B batch, N tokens, C channels, d head_dim, s local_size: keys times values, queries times that.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    flops = 4 * batch * tokens * channels * shape.head_dim
    if options.local_residual:
        flops += headwise_conv_flops(batch, tokens, channels, options.local_size)
    if options.sparse:
        flops += 4 * batch * tokens**2 * channels
    return flops


def order(options: LinearAngularOptions) -> float:
    """Exponent in tokens: 2 with the sparse term."""
    return 2.0 if options.sparse else 1.0


def state_floats(shape: AttentionShape, options: LinearAngularOptions) -> int:
    """C d: the sum of u(k) v^T, per head; with `sparse` all keys and values, 2 N C, beside it."""
    sparse = 2 * shape.tokens * shape.channels if options.sparse else 0
    return shape.channels * shape.head_dim + sparse


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `LinAngularAttention` module."""
    return adopt_projections(official, ("qkv",), "proj", {"dconv.weight": "filters"})


SPEC = AttentionSpec(
    name="linear_angular",
    title="Linear-angular attention (Castling-ViT)",
    family="feature_map",
    paper=Paper(
        title="Castling-ViT: Compressing Self-Attention via Switching Towards Linear-Angular "
        "Attention at Vision Transformer Inference",
        authors=(
            "Haoran You",
            "Yunyang Xiong",
            "Xiaoliang Dai",
            "Bichen Wu",
            "Peizhao Zhang",
            "Haoqi Fan",
            "Peter Vajda",
            "Yingyan (Celine) Lin",
        ),
        year=2023,
        venue="CVPR",
        url="https://arxiv.org/abs/2211.10526",
        equation="section 4, linear-angular attention",
        code="https://github.com/GATECH-EIC/Castling-ViT/blob/"
        "c7b75c1b6b7879f5bf03dbf081352ddbee4d2a3c/attention.py",
    ),
    revision=1,
    formula=r"O_i = \frac{a_i}{\lVert a_i \rVert} + \mathrm{conv}(V)_i, \quad"
    r" a_i = \tfrac{1}{2} v_i + \tfrac{1}{\pi} \frac{q_i^\top}{\lVert q_i \rVert}"
    r" \sum_j \frac{k_j}{\lVert k_j \rVert}\, v_j^\top",
    deviations=(
        (
            "The constant 1/2 of the similarity, which belongs to every pair of tokens, multiplies "
            "a token's own value alone, as in the authors' code: a sum over all values would be "
            "the same number in every row."
        ),
        (
            "Each row is divided by its Euclidean norm, as in the authors' code, and not by the "
            "sum of its weights."
        ),
        (
            "The convolution runs along the sequence of tokens row by row, 9 x 1, and not over the "
            "grid, as in the authors' code; the class token is part of the sequence."
        ),
        (
            "The sparse term, which the authors add in training and drop at inference, is off; "
            "sparse=True is their sparse_reg."
        ),
        (
            "Norms are at least 1e-12, so that a vector of zeros gives zeros where the authors' "
            "code divides zero by zero."
        ),
        (
            "The keys' norms divide the values and the queries' norms the output, in float32, and "
            "sums over tokens are taken as means: the same function."
        ),
    ),
    scaling="The convolution stays 9 tokens wide while the grid grows; the share of a token's own "
    "value in a row shrinks as 1 / N.",
    options=LinearAngularOptions(),
    make=make,
    core_flops=core_flops,
    order=order,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
