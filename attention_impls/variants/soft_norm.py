"""SOFT-Norm (SOFT++): softmax-free attention with symmetric normalisation of the inverse.

    O = K D^(-1/2) inv(A) D^(-1/2) (K^T V) + W * V

with the symbols of SOFT: K [N, m] Gaussian affinities of the tokens to m landmarks of the queries,
A [m, m] those between landmarks, V: values [N, d], W * V: one filter a head over the grid. D is the
diagonal matrix of the row sums of A. inv(A) is T = 20 steps of Newton's iteration
V <- 2 V - V A V without a ridge, from V = alpha A; alpha starts at 2 / (largest row sum of A)^2
and is halved until no column of |I - alpha A A| sums to more than 1.01, ten times at most.

Lu et al., "Softmax-free Linear Transformers", International Journal of Computer Vision 2024,
https://arxiv.org/abs/2207.03341. Where code and paper differ, see `deviations`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
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

InitialScale = Literal["per_matrix", "global"]

MOST_HALVINGS = 10
"""Halvings of alpha, at most."""
LARGEST_RESIDUAL = 1.01
"""alpha is small enough when the residual's 1-norm does not exceed this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftNormOptions(GaussianLowRankOptions):
    """Options of SOFT-Norm."""

    ridge: float = 0.0
    """Added to the diagonal of A before it is inverted."""
    inverse_gradient: InverseGradient = "unrolled"
    """`unrolled`: through every step, as published; `implicit`: gradient of an exact inverse."""
    initial_scale: InitialScale = "per_matrix"
    """alpha from each matrix alone, or one `global` alpha for all matrices of the batch."""


class NormalisedInverse(nn.Module):
    """D^(-1/2) inv(A) D^(-1/2) by Newton's iteration."""

    def __init__(self, options: SoftNormOptions) -> None:
        super().__init__()
        self.options = options

    def forward(self, affinities: Matrices) -> Matrices:
        """Return the normalised iterate."""
        chosen = self.options
        matrix = ridged(affinities, chosen.ridge)
        start = initial_scale(matrix, together=chosen.initial_scale == "global") * matrix
        invert = (
            newton_inverse if chosen.inverse_gradient == "unrolled" else newton_inverse_implicit
        )
        inverse = invert(matrix, start, chosen.newton_steps)
        normaliser = affinities.sum(-1).rsqrt()
        return normaliser[:, :, None] * inverse * normaliser[:, None, :]


def initial_scale(
    matrix: Matrices, *, together: bool
) -> Float[Tensor, "matrices #landmarks #landmarks"]:
    """Return alpha of the start alpha * matrix.

    The halvings are counted without branching on data: the 1-norm of I - alpha A A is known for
    every alpha from the diagonal and the column sums of A A, which cost no matrix product.

    Args:
        matrix: symmetric, entries >= 0.
        together: one alpha for all matrices, from the largest row sum and residual among them.
    """
    row_sums = matrix.sum(-1)
    largest = row_sums.amax() if together else row_sums.amax(-1)
    alpha = (2 / largest.square()).expand(matrix.shape[0])
    with torch.no_grad():
        halves = 0.5 ** torch.arange(MOST_HALVINGS, dtype=matrix.dtype, device=matrix.device)
        tried = alpha[:, None, None] * halves[:, None]
        diagonal = matrix.square().sum(-1)[:, None]
        columns = (matrix * row_sums[:, None]).sum(-1)[:, None]
        residual = ((1 - tried * diagonal).abs() + tried * (columns - diagonal)).amax(-1)
        if together:
            residual = residual.amax(0, keepdim=True)
        halvings = (residual > LARGEST_RESIDUAL).to(matrix.dtype).cumprod(-1).sum(-1)
    return (alpha * 0.5**halvings)[:, None, None]


def make(shape: AttentionShape, options: SoftNormOptions) -> nn.Module:
    """Build the layer: projections of queries and values, the mix, the output projection."""
    mix = GaussianLowRank(shape, options, NormalisedInverse(options))
    return MultiHead(shape, mix, qkv_bias=options.qkv_bias, streams="qv")


def core_flops(shape: AttentionShape, options: SoftNormOptions) -> int:
    """FLOPs of one mix: 2 B h (3 N m d + 2 m^2 d + 2 T m^3 + m r^2 d^2) + 2 B N C s^2.

    m landmarks, T Newton steps, r^2 the area of the landmark convolution, s the local one's side.
    The normalisation and the choice of alpha contract nothing.
    """
    return gaussian_core_flops(shape, options)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the names of the authors' SoftmaxFreeNormAttention onto ours."""
    return adopt_projections(official, ("W_q", "W_v"), "ff", official_gaussian_names())


SPEC = AttentionSpec(
    name="soft_norm",
    title="SOFT-Norm",
    family="low_rank",
    paper=Paper(
        title="Softmax-free Linear Transformers",
        authors=(
            "Jiachen Lu",
            "Junge Zhang",
            "Xiatian Zhu",
            "Jianfeng Feng",
            "Tao Xiang",
            "Li Zhang",
        ),
        year=2024,
        venue="International Journal of Computer Vision",
        url="https://arxiv.org/abs/2207.03341",
        equation="Section 3: symmetric normalisation of the low-rank Gaussian attention",
        code="https://github.com/fudan-zvg/SOFT/tree/d3febc335775c696b5cc4cefe3158dcb9bcf5fc2",
    ),
    revision=1,
    formula=(
        r"O = K\,D^{-1/2}\,\mathrm{inv}_T(A)\,D^{-1/2}\,(K^\top V) + W * V,\quad"
        r" D = \mathrm{diag}(A\mathbf{1}),\quad"
        r" K_{il} = e^{-\lVert q_i d^{-1/4} - l_l \rVert^2 / 2},\quad"
        r" A_{kl} = e^{-\lVert l_k - l_l \rVert^2 / 2}"
    ),
    deviations=(
        (
            "The authors' code takes one alpha from the largest row sum and the largest residual "
            "of the whole batch, so that an image's output depends on the images beside it. Here "
            "each matrix has its own alpha; initial_scale='global' is the code's form."
        ),
        (
            "The code tests the residual of one alpha after another, each test a matrix product "
            "and a wait for the device; here the same number of halvings follows from sums."
        ),
        (
            "The published classes cannot be constructed at the cited commit (a constructor calls "
            "a class that does not exist); the mechanism is what their forward pass says."
        ),
        (
            "The fixed-m and fixed-stride rules, the sampling of landmarks and the grids that are "
            "not a multiple of the landmarks are handled as in SOFT: landmark_rule='fixed' keeps "
            "49 landmarks on every grid, 'stride' is the code's rule, 'conv' its sampling."
        ),
        (
            "There is no ridge by default, as in the code; gradients flow through every step, "
            "which keeps all iterates. inverse_gradient='implicit' keeps one."
        ),
        (
            "Squared distances are clamped at 0 where rounding makes them negative, and are formed "
            "with one matrix product where the code has three; the products are associated from "
            "the right, the same result with fewer operations."
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
    options=SoftNormOptions(),
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
