"""LARA: randomized attention with one proposal for each of a few landmarks, linear in tokens.

    O_i = sum_c softmax_c(log a_ic + w_c . q_i / sqrt(d) + lse_j f(k_j, w_c) - log p_c) beta_c
    beta_c = sum_j softmax_j(f(k_j, w_c)) v_j,    f(x, w) = w . x / sqrt(d) - |x|^2 / (2 sqrt(d))

q_i, k_j, v_j: query, key and value of one head, each of d numbers; lse: logarithm of the sum of
exponentials. w_c: sample of proposal c, a Gaussian around mu_c = q'_c + k'_c: in evaluation mu_c
itself, in training with noise N(0, I). q'_c and k'_c: landmarks, averages of queries and keys over
cells of the grid, then a linear map and LayerNorm that the heads share; k' is mixed once more,
k' <- softmax(k' k'^T / sqrt(d)) k'. p_c = exp f(mu_c, w_c), and the weights of the proposals are

    a_ic = max(p_c / sum_m exp f(mu_m, w_c) + alpha (t_ic - mean_c t_ic), 1e-8)
    t_ic = softmax_i(q'_c . q_i / sqrt(d)).

Zheng, Wang, Kong, "Linear Complexity Randomized Self-attention Mechanism", ICML 2022,
https://arxiv.org/abs/2204.04667, Section 4. Where code and paper differ, see `deviations`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.landmarks import landmark_grid
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Landmarks = Float[Tensor, "batch heads landmarks head_dim"]
Mixing = Literal["none", "keys", "keys_values"]
Weighting = Literal["optimal", "balance", "biased"]

_LEAST_WEIGHT = 1e-8
_NORM_EPSILON = 1e-4
"""Added to the lengths of averaged values, as in the authors' code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaraOptions:
    """Options of LARA."""

    landmarks: int = 49
    """Cells that the grid is averaged into: 49 is 7 x 7."""
    maps: Literal["heads", "channels", "none"] = "heads"
    """Linear maps and norms after averaging: shared by the heads, over all channels (published for
    PVT), or none."""
    mixing: Mixing = "keys"
    """Mix the key landmarks with softmax weights; `keys_values`: that look at the values, too."""
    weighting: Weighting = "optimal"
    """Weights a_ic: `optimal` as in the module docstring, `balance` all 1 over the sum of
    densities, `biased` exp(mu_c . q_i / sqrt(d))."""
    alpha: float = 2.0
    """Strength of t in the weights `optimal`."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.landmarks < 1:
            raise ValueError(f"landmarks is {self.landmarks}, must be >= 1")
        if not self.alpha >= 0:
            raise ValueError(f"alpha is {self.alpha}, must be >= 0")


def cells_of(grid: Grid, options: LaraOptions) -> Grid:
    """Return the rows and columns of landmarks: 7 x 7 on images, a row on a sequence."""
    return landmark_grid(grid, "fixed", options.landmarks, 1)


class MappedAverages(nn.Module):
    """Averages of tokens over cells of the grid, a linear map and LayerNorm.

    Parameters: `linear` and `norm` over head_dim or channels, if there are maps.
    """

    def __init__(self, shape: AttentionShape, options: LaraOptions) -> None:
        super().__init__()
        self.options = options
        self.whole = options.maps == "channels"
        self.linear = self.norm = None
        if options.maps != "none":
            width = shape.channels if self.whole else shape.head_dim
            self.linear = nn.Linear(width, width)
            self.norm = nn.LayerNorm(width)

    def forward(self, heads: Heads, grid: Grid) -> Landmarks:
        """Average and map; the tokens are those of the grid."""
        means = cell_means(heads, grid, cells_of(grid, self.options))
        if self.linear is None or self.norm is None:
            return means
        if not self.whole:
            return self.norm(self.linear(means))
        mapped = self.norm(self.linear(means.transpose(1, 2).flatten(2)))
        return mapped.unflatten(2, (heads.shape[1], -1)).transpose(1, 2)


def cell_means(heads: Heads, grid: Grid, cells: Grid) -> Landmarks:
    """Return the means over `cells` of the grid, which may overlap where sides do not divide."""
    batch, count, _, head_dim = heads.shape
    image = heads.transpose(1, 2).reshape(batch, grid.height, grid.width, count * head_dim)
    means = F.adaptive_avg_pool2d(image.permute(0, 3, 1, 2), (cells.height, cells.width))
    return means.flatten(2).transpose(1, 2).unflatten(2, (count, head_dim)).transpose(1, 2)


class LaraMix(nn.Module):
    """The formulas of the module docstring. Parameters: those of `queries` and `keys`."""

    def __init__(self, shape: AttentionShape, options: LaraOptions) -> None:
        super().__init__()
        self.options = options
        self.queries = MappedAverages(shape, options)
        self.keys = MappedAverages(shape, options)

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Attend. Landmarks are those of the grid; extra tokens are queries, keys and values.

        All but the landmarks' maps is float32 for half-precision inputs.
        """
        first, scale = q.shape[2] - grid.tokens, q.shape[-1] ** -0.5
        exact = torch.promote_types(q.dtype, torch.float32)
        query_landmarks = self.queries(q[:, :, first:], grid).to(exact)
        key_landmarks = self.keys(k[:, :, first:], grid).to(exact)
        dtype, q, k, v = q.dtype, q.to(exact) * scale, k.to(exact), v.to(exact)
        key_landmarks = self._mixed(key_landmarks, v[:, :, first:], grid, scale)
        centres = query_landmarks + key_landmarks
        samples = centres + torch.randn_like(centres) if self.training else centres

        of_keys = samples @ (k * scale).mT - _half_square(k, scale).mT
        estimates = of_keys.softmax(-1) @ v
        logits = q @ samples.mT + of_keys.logsumexp(-1).unsqueeze(-2)
        weights = (logits + self._proposal(q, query_landmarks, centres, samples, scale)).softmax(-1)
        return (weights @ estimates).to(dtype)

    def _mixed(self, landmarks: Landmarks, v: Heads, grid: Grid, scale: float) -> Landmarks:
        if self.options.mixing == "none":
            return landmarks
        logits = (landmarks * scale) @ landmarks.mT
        if self.options.mixing == "keys_values":
            means = cell_means(v, grid, cells_of(grid, self.options))
            logits = logits + (means.norm(dim=-1) + _NORM_EPSILON).log().unsqueeze(-2)
        return logits.softmax(-1) @ landmarks

    def _proposal(
        self,
        q: Heads,
        query_landmarks: Landmarks,
        centres: Landmarks,
        samples: Landmarks,
        scale: float,
    ) -> Float[Tensor, "batch heads #tokens landmarks"]:
        """Return log a - log p; `q` is scaled."""
        densities = samples @ (centres * scale).mT - _half_square(centres, scale).mT
        of_all = densities.logsumexp(-1).unsqueeze(-2)
        if self.options.weighting == "balance":
            return -of_all
        if self.options.weighting == "biased":
            return q @ centres.mT - of_all
        own = densities.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
        nearness = (q @ query_landmarks.mT).softmax(-2)
        nearness = nearness - nearness.mean(-1, keepdim=True)
        weights = (own - of_all).exp() + self.options.alpha * nearness
        return weights.clamp(min=_LEAST_WEIGHT).log() - own


def _half_square(x: Heads, scale: float) -> Float[Tensor, "batch heads tokens 1"]:
    return x.square().sum(-1, keepdim=True) * (scale / 2)


def make(shape: AttentionShape, options: LaraOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, LaraMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: LaraOptions) -> int:
    """10 B N m C + 6 B m^2 C + 4 B m C d: products with N rows, between landmarks, the two maps.

    B batch, N tokens, m landmarks, C channels, d head_dim. 8 B N m C with weighting `balance`;
    2 B m^2 C without mixing; maps over all channels cost 4 B m C^2.
    """
    batch, channels = shape.batch, shape.channels
    count = cells_of(shape.grid, options).tokens
    long = 4 if options.weighting == "balance" else 5
    short = 1 if options.mixing == "none" else 3
    width = {"heads": shape.head_dim, "channels": channels, "none": 0}[options.maps]
    return 2 * batch * count * channels * (long * shape.tokens + short * count + 2 * width)


def state_floats(shape: AttentionShape, options: LaraOptions) -> int:
    """2 m C: samples and estimates of the landmarks."""
    return 2 * cells_of(shape.grid, options).tokens * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the authors' `LinearRA` on images (`proposal_gen` pool)."""
    mix = {
        f"{theirs}_bar_gen.{layer}.{kind}": f"{ours}.{name}.{kind}"
        for theirs, ours in (("q", "queries"), ("k", "keys"))
        for layer, name in ((2, "linear"), (3, "norm"))
        for kind in ("weight", "bias")
    }
    return adopt_projections(official, ("qkv",), "proj", mix)


SPEC = AttentionSpec(
    name="lara",
    title="LARA",
    family="low_rank",
    paper=Paper(
        title="Linear Complexity Randomized Self-attention Mechanism",
        authors=("Lin Zheng", "Chong Wang", "Lingpeng Kong"),
        year=2022,
        venue="ICML",
        url="https://arxiv.org/abs/2204.04667",
        equation="Section 4: multiple importance sampling with query-dependent weights",
        code=(
            "https://github.com/HKUNLP/efficient-attention/tree/"
            "531ff5169b56fcec9d0a361125cffb62ab5e8781"
        ),
    ),
    revision=1,
    formula=(
        r"O_i = \sum_c \mathrm{softmax}_c\!\left(\log \frac{a_{ic}}{p_c} + \frac{w_c^\top q_i}"
        r"{\sqrt d} + \log \sum_j e^{f(k_j, w_c)}\right) \beta_c,\quad"
        r" \beta_c = \sum_j \mathrm{softmax}_j(f(k_j, w_c))\, v_j"
    ),
    deviations=(
        (
            "Defaults are those of the published DeiT recipes (mixed key landmarks, alpha = 2), "
            "not those of the class (no mixing, alpha = 1)."
        ),
        (
            "t is normalised over the queries, as in the authors' code, so that the weights of a "
            "query depend on the other queries."
        ),
        (
            "On grids with a side below 7 the 49 landmarks are as close to a square as the grid "
            "allows, a row on a sequence, and each token is its own where there are no more; the "
            "authors' code has 7 x 7 on every grid. Its form for sequences, which maps before it "
            "averages segments, is not included."
        ),
        (
            "Class tokens take part as queries, keys and values and have no landmark; the "
            "authors' models have none."
        ),
        (
            "The terms that are the same for all landmarks of a query, |q|^2 / (2 sqrt(d)), are "
            "left out: they cancel. Antithetic and repeated samples of training are not included."
        ),
        "Half precision is computed in float32 but for the maps of the landmarks.",
    ),
    scaling="The 49 landmarks stay 49 while their cells grow, so cost is linear in tokens.",
    options=LaraOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
