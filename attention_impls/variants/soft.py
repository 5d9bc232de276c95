"""SOFT: softmax-free attention with Gaussian affinities, factored through landmarks.

    S_ij = exp(-|q_i - q_j|^2 / (2 sqrt(d)))              the keys are the queries
    S ~ K inv(A) K^T,   O = K (inv(A) (K^T V)) + W * V

q: queries [N, d], V: values [N, d], K = exp(-|q / d^(1/4) - l|^2 / 2): affinities of the tokens to
the landmarks l [N, m], A: affinities between landmarks [m, m], W * V: convolution of the values
over the grid with one filter a head. Rows are not normalised. inv(A) is T = 20 steps of Newton's
iteration V <- 2 V - V P V on P = A + 0.01 I from V = alpha P, alpha = 1.8 / (largest row sum of
A)^2. The landmarks are LayerNorm and GELU of a strided convolution of the queries.

Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", NeurIPS 2021,
https://arxiv.org/abs/2110.11945, Section 3. Where code and paper differ, see `deviations`.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.gaussian_low_rank import (
    GaussianLowRank,
    GaussianLowRankOptions,
    gaussian_core_flops,
    gaussian_limits,
    gaussian_order,
    gaussian_state,
    official_gaussian_names,
)
from attention_impls.parts.newton import (
    InverseGradient,
    Matrices,
    newton_inverse,
    newton_inverse_implicit,
    ridged,
)
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits, square_projections


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftOptions(GaussianLowRankOptions):
    """Options of SOFT."""

    ridge: float = 0.01
    """Added to the diagonal of A before it is inverted."""
    inverse_gradient: InverseGradient = "implicit"
    """`implicit`: gradient of an exact inverse, as published; `unrolled`: through every step."""


class RidgedInverse(nn.Module):
    """inv(A + ridge I) by Newton's iteration; the start comes from A without the ridge."""

    def __init__(self, options: SoftOptions) -> None:
        super().__init__()
        self.options = options

    def forward(self, affinities: Matrices) -> Matrices:
        """Return the iterate, one for each matrix on its own."""
        chosen = self.options
        alpha = 1.8 / affinities.sum(-1).amax(-1).square()
        matrix = ridged(affinities, chosen.ridge)
        start = alpha[:, None, None] * matrix
        invert = (
            newton_inverse if chosen.inverse_gradient == "unrolled" else newton_inverse_implicit
        )
        return invert(matrix, start, chosen.newton_steps)


def make(shape: AttentionShape, options: SoftOptions) -> nn.Module:
    """Build the layer: projections of queries and values, the mix, the output projection."""
    mix = GaussianLowRank(shape, options, RidgedInverse(options))
    return MultiHead(shape, mix, qkv_bias=options.qkv_bias, streams="qv")


def core_flops(shape: AttentionShape, options: SoftOptions) -> int:
    """FLOPs of one mix: 2 B h (3 N m d + 2 m^2 d + 2 T m^3 + m r^2 d^2) + 2 B N C s^2.

    m landmarks, T Newton steps, r^2 the area of the landmark convolution, s the local one's side.
    """
    return gaussian_core_flops(shape, options)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the names of the authors' SoftmaxFreeAttention onto ours."""
    return adopt_projections(official, ("W_q", "W_v"), "ff", official_gaussian_names())


SPEC = AttentionSpec(
    name="soft",
    title="SOFT",
    family="low_rank",
    paper=Paper(
        title="SOFT: Softmax-free Transformer with Linear Complexity",
        authors=(
            "Jiachen Lu",
            "Jinghan Yao",
            "Junge Zhang",
            "Xiatian Zhu",
            "Hang Xu",
            "Weiguo Gao",
            "Chunjing Xu",
            "Tao Xiang",
            "Li Zhang",
        ),
        year=2021,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2110.11945",
        equation="Section 3: Gaussian attention, its low-rank form and the Newton-Raphson inverse",
        code="https://github.com/fudan-zvg/SOFT/tree/d3febc335775c696b5cc4cefe3158dcb9bcf5fc2",
    ),
    revision=1,
    formula=(
        r"O = K\,\mathrm{inv}_T(A + 0.01 I)\,(K^\top V) + W * V,\quad"
        r" K_{il} = e^{-\lVert q_i d^{-1/4} - l_l \rVert^2 / 2},\quad"
        r" A_{kl} = e^{-\lVert l_k - l_l \rVert^2 / 2}"
    ),
    deviations=(
        (
            "The paper derives linear cost from a fixed number of landmarks (m = 49); the authors' "
            "code fixes the stride of the landmark convolution instead, so that m grows with the "
            "image. Both are options; landmark_rule='fixed' is the default, and the two agree on "
            "grids of 14, 28 and 56 tokens a side with stride 2, 4 and 8."
        ),
        (
            "With landmark_rule='fixed' the convolution has as many whole tokens a side as there "
            "are per landmark on the grid the layer is built for, at most 8 as in the first stage; "
            "the queries are averaged onto exactly that many cells (adaptive average pooling) "
            "where the grid is not a multiple of it. With 'stride' rows and columns left over at "
            "the end of the grid belong to no landmark, as in the authors' code."
        ),
        (
            "On a sequence (a grid of height 1) the landmarks lie in a row, and a grid with no "
            "more tokens than landmarks has one landmark a token."
        ),
        (
            "The paper samples landmarks by average pooling, the code by a convolution followed by "
            "LayerNorm and GELU; both are options, the code's is the default. Pooled and random "
            "landmarks have no LayerNorm and GELU."
        ),
        "Random landmarks are the same tokens in every call (option seed), in training too.",
        (
            "The ridge of 0.01 and the convolution of V come from the code; the paper does not "
            "state the ridge. As in the code, alpha comes from A without the ridge."
        ),
        (
            "As in the authors' code the backward pass is that of an exact inverse, -V^T G V^T "
            "with the iterate V; where 20 steps have not converged it is not the derivative of the "
            "forward pass. inverse_gradient='unrolled' differentiates every step."
        ),
        (
            "Squared distances are clamped at 0 where rounding makes them negative, and are formed "
            "with one matrix product where the code has three; K (inv(A) (K^T V)) replaces (K "
            "inv(A)) (K^T V), the same product with fewer operations."
        ),
        (
            "Distances, affinities and the inverse are computed in float32 for half-precision "
            "inputs."
        ),
    ),
    scaling=(
        "The 49 landmarks stay 49, so cost is linear in tokens; their convolution grows from 2 x 2 "
        "to at most 8 x 8 tokens. With landmark_rule='stride' landmarks grow with the tokens and "
        "cost with their cube."
    ),
    options=SoftOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=square_projections(3),
    order=gaussian_order,
    state_floats=gaussian_state,
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
    own_limits=gaussian_limits,
    adopt_official=adopt_official,
)
