r"""Skyformer: Gaussian attention through landmarks sampled from queries and keys.

    O = K_q (D (A' (D (K_k^T V)))),   A' ~ inv(D M D),   M = K_s + 0.1 I,   D = diag(M 1)^(-1/2)
    K_q = kappa(Q, S),   K_k = kappa(K, S),   K_s = kappa(S, S),
    kappa(x, y) = exp(-|x - y|^2 / (2 sqrt(d)))

Q, K, V: queries, keys, values [N, d] of one head; S: m landmarks, half of them sampled from the
rows of Q, half from those of K; 1: a vector of ones. O stands for kappa(Q, K) V, Gaussian attention
whose rows are not normalised. The inverse is six steps of

    Z <- Z (13 I - X Z (15 I - X Z (7 I - X Z))) / 4    from Z = X^T / (largest column sum of X).

Chen, Zeng, Ji, Yang, "Skyformer: Remodel Self-Attention with Gaussian Kernel and Nystrom Method",
NeurIPS 2021, https://arxiv.org/abs/2111.00035, Sections 3 and 4. Where code and paper differ, see
`deviations`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.gaussian import gaussian_affinities
from attention_impls.parts.landmarks import sampled_tokens
from attention_impls.parts.newton import ridged
from attention_impls.parts.pseudo_inverse import iterative_pseudo_inverse, pseudo_inverse_flops
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Matrices = Float[Tensor, "matrices landmarks landmarks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyformerOptions:
    """Options of Skyformer."""

    landmarks: int = 128
    """Landmarks m, an even number: half from the queries, half from the keys."""
    iterations: int = 6
    """Steps of the iterative inverse."""
    ridge: float = 0.1
    """Added to the diagonal of K_s."""
    initialisation: Literal["per_matrix", "global"] = "per_matrix"
    """Largest column sum of each matrix alone, or of the whole batch, as published, which makes a
    sequence depend on the sequences beside it."""
    seed: int = 0
    """Which tokens are landmarks: the same ones in every call with as many tokens."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.landmarks < 2 or self.landmarks % 2:
            raise ValueError(f"landmarks is {self.landmarks}, must be even and >= 2")
        if self.iterations < 0:
            raise ValueError(f"iterations is {self.iterations}, must be >= 0")
        if not self.ridge > 0:
            raise ValueError(f"ridge is {self.ridge}, must be > 0")


def landmark_count(tokens: int, options: SkyformerOptions) -> int:
    """Return m: at most every query and every key."""
    return 2 * min(tokens, options.landmarks // 2)


class SkyformerMix(nn.Module):
    """The formula of the module docstring; no parameters."""

    def __init__(self, options: SkyformerOptions) -> None:
        super().__init__()
        self.options = options

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend. Everything is float32 for half-precision inputs: distances cancel."""
        batch, heads, _, head_dim = q.shape
        exact = torch.promote_types(q.dtype, torch.float32)
        scale = head_dim**-0.25
        queries, keys, values = (t.flatten(0, 1).to(exact) for t in (q, k, v))
        landmarks = torch.cat((self._sampled(queries, 0), self._sampled(keys, 1)), 1) * scale
        of_queries = gaussian_affinities(queries, landmarks, scale)
        of_keys = gaussian_affinities(keys, landmarks, scale)
        between = ridged(gaussian_affinities(landmarks, landmarks, 1.0), self.options.ridge)
        root = between.sum(-1, keepdim=True).rsqrt()
        inverse = self._inverse(root * between * root.mT, batch, heads)
        summary = root * (inverse @ (root * (of_keys.mT @ values)))
        return (of_queries @ summary).to(q.dtype).unflatten(0, (batch, heads))

    def _sampled(
        self, rows: Float[Tensor, "matrices tokens head_dim"], stream: int
    ) -> Float[Tensor, "matrices sampled head_dim"]:
        tokens = rows.shape[1]
        count = landmark_count(tokens, self.options) // 2
        chosen = sampled_tokens(tokens, count, 2 * self.options.seed + stream)
        return rows.index_select(1, torch.tensor(chosen, device=rows.device))

    def _inverse(self, matrix: Matrices, batch: int, heads: int) -> Matrices:
        together = self.options.initialisation == "global"
        split = matrix.unflatten(0, (batch, heads))
        found = iterative_pseudo_inverse(split, self.options.iterations, together=together)
        return found.flatten(0, 1)


def make(shape: AttentionShape, options: SkyformerOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    return MultiHead(shape, SkyformerMix(options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: SkyformerOptions) -> int:
    """FLOPs of one mix: 8 B N m C + 4 B m^2 C + 8 B h t m^3.

    B batch, N tokens, C channels, h heads, m landmarks, t iterations: four products with N rows,
    K_s and the inverse times the summary, four products of m x m matrices an iteration.
    """
    count = landmark_count(shape.tokens, options)
    products = 4 * shape.batch * count * shape.channels * (2 * shape.tokens + count)
    matrices = shape.batch * shape.heads
    return products + pseudo_inverse_flops(matrices, count, options.iterations)


def state_floats(shape: AttentionShape, options: SkyformerOptions) -> int:
    """2 m C: the landmarks, and the summary of the keys and values at each."""
    return 2 * landmark_count(shape.tokens, options) * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the authors' `Attention` around `Skyformer`, which has no parameters of its own."""
    return adopt_projections(official, ("W_q", "W_k", "W_v"), "ff", {})


SPEC = AttentionSpec(
    name="skyformer",
    title="Skyformer",
    family="low_rank",
    paper=Paper(
        title="Skyformer: Remodel Self-Attention with Gaussian Kernel and Nyström Method",
        authors=("Yifan Chen", "Qi Zeng", "Heng Ji", "Yun Yang"),
        year=2021,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2111.00035",
        equation="Section 3, Kernelized Attention, and Section 4, its Nyström form",
        code=(
            "https://github.com/pkuzengqi/Skyformer/tree/1a677cb104dac8ad83079196a5d78d5913d1d278"
        ),
    ),
    revision=1,
    formula=(
        r"O = \kappa(Q, S)\, D \,\mathrm{inv}(D M D)\, D\, \kappa(S, K)\, V,\quad"
        r" M = \kappa(S, S) + 0.1 I,\; D = \mathrm{diag}(M \mathbf{1})^{-1/2},\;"
        r" \kappa(x, y) = e^{-\lVert x - y \rVert^2 / (2\sqrt d)}"
    ),
    deviations=(
        (
            "The authors' code samples landmarks anew in every call, in evaluation too, with "
            "repetitions; here they are sampled once from a seed, without repetitions, so that "
            "two calls give the same bits."
        ),
        (
            "The authors' code divides queries and keys by 32^(1/4), the fourth root of its "
            "models' head_dim; here, as in the paper, by that of the head_dim in use."
        ),
        (
            "The published start of the inverse takes the largest column sum of the whole batch "
            "(initialisation='global'), which makes a sequence depend on its neighbours in the "
            "batch; the default takes each matrix's own."
        ),
        (
            "K_q times the small matrices times K_k^T V is evaluated from the right: the same "
            "product without N x m x m operations."
        ),
        (
            "Sums over several samples for a landmark (`accumulation`), which the published "
            "configurations set to 1, are not included."
        ),
        "Half precision is computed in float32.",
    ),
    scaling="The 128 landmarks stay 128 while the grid grows, so cost is linear in tokens.",
    options=SkyformerOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
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
