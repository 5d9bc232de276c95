"""Random feature attention (RFA): sines and cosines of random projections of unit vectors.

    O_i = phi(q_i)^T sum_j phi(k_j) v_j^T / max(|phi(q_i)^T sum_j phi(k_j)|, 1)
    phi(x) = 0.1 [sin(W u), cos(W u)],   u = x / (|x| + 0.001),   W = W_0 diag(sigma) / tau

q_i, k_j, v_j: query, key and value of one head, each of d numbers; W_0 [r, d]: Gaussian, drawn once
for each head; sigma [d]: learned for each head, 1 at the start; tau: temperature. The expectation
over W_0 of phi(x) . phi(y) is 0.01 r exp(-|u_x - u_y|^2 / (2 tau^2)) for sigma = 1: up to a factor
that cancels, the weight exp(u_x . u_y / tau^2) of softmax attention over unit vectors. Causal, the
sums run over j <= i and the denominator is max(phi(q_i)^T sum_j phi(k_j), 1).

Peng et al., "Random Feature Attention", ICLR 2021, https://arxiv.org/abs/2103.02143, Sections 2.2
and 3. Where code and paper differ, see `deviations`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.causal_product import (
    causal_product,
    causal_product_flops,
    ones_beside,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Features = Float[Tensor, "batch heads tokens features"]

_NORM_EPSILON = 1e-3
"""Added to the length that queries and keys are divided by, as in the authors' code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomFeatureOptions:
    """Options of random feature attention."""

    projections: int = 64
    """Random directions r of a head; each gives a sine and a cosine."""
    temperature: float = 1.0
    """tau: smaller is sharper."""
    feature_scale: float | None = 0.1
    """Factor of the features, 0.1 in the authors' code; None: 1/sqrt(r), as in the paper."""
    least_denominator: float = 1.0
    """The denominator is never nearer to 0; decides the output where the weights sum to less."""
    learned_scale: bool = True
    """Learn sigma; False: sigma is 1."""
    seed: int = 0
    """Seed of W_0, which is drawn once and kept."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.projections < 1:
            raise ValueError(f"projections is {self.projections}, must be >= 1")
        for name in ("temperature", "least_denominator"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be > 0")
        if self.feature_scale is not None and not self.feature_scale > 0:
            raise ValueError(f"feature_scale is {self.feature_scale}, must be None or > 0")


class DirectionScale(nn.Module):
    """Parameter: `weight` [channels], sigma of all heads."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.weight = nn.Parameter(torch.ones(shape.channels))

    def forward(
        self, directions: Float[Tensor, "heads r head_dim"]
    ) -> Float[Tensor, "heads r head_dim"]:
        """Return the scaled directions."""
        return directions * self.weight.to(directions.dtype).view(self.heads, 1, -1)


class RandomFeatureMix(nn.Module):
    """The formula of the module docstring.

    Parameters: that of `sigma`, if learned. Buffer: `directions` [heads, r, head_dim], W_0.
    """

    directions: Tensor

    def __init__(self, shape: AttentionShape, options: RandomFeatureOptions) -> None:
        super().__init__()
        self.options = options
        self.causal = shape.causal
        count = options.projections
        self.scale = count**-0.5 if options.feature_scale is None else options.feature_scale
        generator = torch.Generator(device="cpu").manual_seed(options.seed)
        sizes = (shape.heads, count, shape.head_dim)
        drawn = torch.randn(sizes, generator=generator, dtype=torch.float32, device="cpu")
        drawn = drawn.to(device=torch.get_default_device(), dtype=torch.get_default_dtype())
        self.register_buffer("directions", drawn)
        self.sigma = DirectionScale(shape) if options.learned_scale else None

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend. Everything is float32 for half-precision inputs: sums run over all tokens."""
        exact = torch.promote_types(q.dtype, torch.float32)
        matrix = self.directions.to(exact) / self.options.temperature
        if self.sigma is not None:
            matrix = self.sigma(matrix)
        queries, keys = (self._features(t.to(exact), matrix) for t in (q, k))
        least, values = self.options.least_denominator, v.to(exact)
        if self.causal:
            sums = causal_product(queries, keys, ones_beside(values))
            mixed = sums[..., :-1] / sums[..., -1:].clamp(min=least)
        else:
            total = queries @ keys.sum(2).unsqueeze(-1)
            mixed = queries @ (keys.mT @ values) / total.abs().clamp(min=least)
        return mixed.to(q.dtype)

    def _features(self, heads: Heads, matrix: Float[Tensor, "heads r head_dim"]) -> Features:
        """Return phi."""
        unit = heads / (heads.norm(dim=-1, keepdim=True) + _NORM_EPSILON)
        angles = unit @ matrix.mT
        return torch.cat((angles.sin(), angles.cos()), -1) * self.scale


def make(shape: AttentionShape, options: RandomFeatureOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, RandomFeatureMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: RandomFeatureOptions) -> int:
    """12 B N r C + 4 B N r h: angles 4, keys times values 4, reading 4; the denominator.

    B batch, N tokens, C channels, h heads, d head_dim, r directions. Causal, with N rounded up to P
    tokens in chunks of c: 4 B N r C + 2 B h P (c (2 r + d + 1) + 4 r (d + 1)).
    """
    matrices, tokens, width = shape.batch * shape.heads, shape.tokens, shape.head_dim
    count = options.projections
    angles = 4 * matrices * tokens * count * width
    if shape.causal:
        return angles + causal_product_flops(matrices, tokens, 2 * count, width + 1)
    return angles + 4 * matrices * tokens * count * (2 * width + 1)


def state_floats(shape: AttentionShape, options: RandomFeatureOptions) -> int:
    """2 r (d + 1) a head: the sums of phi(k) v^T and of phi(k)."""
    return 2 * options.projections * shape.heads * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the authors' `CausalAttention`; its random matrices are no part of its weights."""
    inputs = ("q_proj", "k_proj", "v_proj")
    adopted = adopt_projections(official, inputs, "out_proj", {"sigma": "sigma.weight"})
    if "mix.sigma.weight" in adopted:
        # published as [heads, 1, head_dim]
        adopted["mix.sigma.weight"] = adopted["mix.sigma.weight"].flatten()
    return adopted


SPEC = AttentionSpec(
    name="random_feature",
    title="Random feature attention",
    family="feature_map",
    paper=Paper(
        title="Random Feature Attention",
        authors=(
            "Hao Peng",
            "Nikolaos Pappas",
            "Dani Yogatama",
            "Roy Schwartz",
            "Noah A. Smith",
            "Lingpeng Kong",
        ),
        year=2021,
        venue="ICLR",
        url="https://arxiv.org/abs/2103.02143",
        equation="Section 3, with the random Fourier features of Section 2.2",
        code="https://github.com/Noahs-ARK/RFA/tree/b075fa8a22cb48f61253b3feaf3175eff0e53819",
    ),
    revision=1,
    formula=r"O_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}"
    r"{\max(\lvert\phi(q_i)^\top \sum_j \phi(k_j)\rvert, 1)},\quad"
    r" \phi(x) = 0.1\,[\sin W u, \cos W u],\; u = x / \lVert x \rVert",
    deviations=(
        (
            "The paper scales features by 1/sqrt(r); the authors' code by 0.1, and never lets a "
            "denominator fall below 1. Both change the output where the weights of a row sum to "
            "less than 1, which happens with a handful of tokens: such rows do not sum to 1."
        ),
        (
            "The code has causal self-attention and attention to another sequence. Without "
            "`causal` the second form is computed on the sequence itself, absolute value of the "
            "denominator included."
        ),
        (
            "The code draws 500 matrices beforehand, takes others in every training step and the "
            "first ones in evaluation; here one a head is drawn from a seed and kept."
        ),
        (
            "The gate of the paper (RFA-Gate) and its features of the arc-cosine kind are not in "
            "the authors' code and not included, nor are the code's orthogonal matrices, whose "
            "rows it scales by a chi distribution of r instead of d degrees of freedom."
        ),
        (
            "The causal form works on chunks of 64 tokens, where the authors' code has a compiled "
            "loop over tokens; it equals the recurrence over single tokens."
        ),
        "Half precision is computed in float32.",
    ),
    scaling="The directions keep their number while the grid grows; the state keeps its size.",
    options=RandomFeatureOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=True,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=True,
        rows_sum_to_one=True,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
