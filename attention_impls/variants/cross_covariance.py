"""Cross-covariance attention (XCiT): softmax attention between channels instead of tokens.

    O = V A^T,    A = softmax(tau K_n^T Q_n)  ->  A_ab = softmax_b(tau q_a . k_b / (|q_a| |k_b|))

Q, K, V: queries, keys, values [N, d] of one head; q_a, k_b: columns of Q and K, one number a token,
divided by their Euclidean norm over the N tokens; tau: a learned temperature for each head; the
softmax runs over the channels b of the keys. A is d x d: a channel of the output is a mixture of
the channels of the values of the same token, weighed by how alike two channels are over all tokens.
Linear in N; tokens see each other through A alone.

El-Nouby, Touvron, Caron, Bojanowski, Douze, Joulin, Laptev, Neverova, Synnaeve, Verbeek, Jegou,
"XCiT: Cross-Covariance Image Transformers", NeurIPS 2021, https://arxiv.org/abs/2106.09681,
equation 2.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, NoOptions, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

SMALLEST_NORM = 1e-12
"""A channel of this norm over the tokens or less is divided by this, as in the authors' code."""


class CrossCovarianceMix(nn.Module):
    """The formula of the module docstring. Parameters: `temperature` [heads, 1, 1] (tau)."""

    def __init__(self, shape: AttentionShape) -> None:
        """Build for the heads of `shape`; temperatures start at 1."""
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(shape.heads, 1, 1))

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Return O; `x` and `grid` play no part."""
        accumulator = torch.promote_types(q.dtype, torch.float32)
        # normalising d x d products costs less than normalising two arrays of N x d
        products = torch.baddbmm(
            q.new_zeros(()), q.flatten(0, 1).mT, k.flatten(0, 1), beta=0, alpha=1 / q.shape[2]
        )
        products = products.unflatten(0, q.shape[:2]).to(accumulator)
        inverse_q, inverse_k = (_inverse_root_mean_square(t) for t in (q, k))
        scores = products * inverse_q.unsqueeze(-1) * inverse_k.unsqueeze(-2)
        weights = (scores * self.temperature).softmax(-1)
        return v @ weights.to(v.dtype).mT


def _inverse_root_mean_square(x: Heads) -> Float[Tensor, "batch heads head_dim"]:
    """1 / (norm over tokens / sqrt(N)) of each channel, in float32 or better."""
    accumulator = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=2, dtype=accumulator)
    return norm.clamp_min(SMALLEST_NORM).reciprocal() * x.shape[2] ** 0.5


def make(shape: AttentionShape, options: NoOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, CrossCovarianceMix(shape), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: NoOptions) -> int:
    """4 B N C d: queries times keys over the tokens, and values times the weights.

    B batch, N tokens, C channels, d head_dim.
    """
    return 4 * shape.batch * shape.tokens * shape.channels * shape.head_dim


def state_floats(shape: AttentionShape, _options: NoOptions) -> int:
    """C d: the weights between channels, per head."""
    return shape.channels * shape.head_dim


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `XCA` module."""
    return adopt_projections(official, ("qkv",), "proj", {"temperature": "temperature"})


SPEC = AttentionSpec(
    name="cross_covariance",
    title="Cross-covariance attention (XCA)",
    family="feature_map",
    paper=Paper(
        title="XCiT: Cross-Covariance Image Transformers",
        authors=(
            "Alaaeldin El-Nouby",
            "Hugo Touvron",
            "Mathilde Caron",
            "Piotr Bojanowski",
            "Matthijs Douze",
            "Armand Joulin",
            "Ivan Laptev",
            "Natalia Neverova",
            "Gabriel Synnaeve",
            "Jakob Verbeek",
            "Hervé Jegou",
        ),
        year=2021,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2106.09681",
        equation="equation 2",
        code="https://github.com/facebookresearch/xcit/blob/"
        "82f5291f412604970c39a912586e008ec009cdca/xcit.py",
    ),
    revision=1,
    formula=r"O = V A^\top, \quad A_{ab} = \mathrm{softmax}_b\!\left("
    r"\tau\, \frac{q_a^\top k_b}{\lVert q_a \rVert\, \lVert k_b \rVert}\right), \quad"
    r" q_a, k_b \in \mathbb{R}^N \text{ channels}",
    deviations=(
        (
            "The paper divides by a temperature and leaves the axis of the softmax open; the "
            "authors' code, and this layer, multiply by it and normalise over the channels of the "
            "keys."
        ),
        (
            "Products of channels are divided by both norms after the sum over tokens, which is "
            "taken as a mean, instead of before it: the same function."
        ),
        (
            "The layer alone: XCiT's local patch interaction (two 3x3 depthwise convolutions) is a "
            "part of its own in the block, and its class attention comes after the trunk."
        ),
        "In half precision the norms and the softmax over channels are computed in float32.",
    ),
    scaling="No option depends on the grid; the d x d weights keep their size while it grows.",
    options=NoOptions(),
    make=make,
    core_flops=core_flops,
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
