"""Differential attention: the difference of two softmax maps, so that what both see cancels.

    O = (1 - l_0) norm((softmax(Q_1 K_1^T / sqrt(d / 2)) - l softmax(Q_2 K_2^T / sqrt(d / 2))) V)
    l = exp(a_1 . b_1) - exp(a_2 . b_2) + l_0,    l_0 = 0.8 - 0.6 exp(-0.3 depth)

[Q_1, Q_2], [K_1, K_2]: the queries and keys [N, d] of one head, cut into two halves of d / 2
channels; V its values [N, d]; a_1, b_1, a_2, b_2: learned, d / 2 numbers each, shared by the heads
of a layer; depth: the layer's place in the network, from 0; norm divides the d numbers of a head by
the root of their mean square and multiplies by learned weights. Two N x N matrices are formed.

Ye, Dong, Xia, Sun, Zhu, Huang, Wei, "Differential Transformer", ICLR 2025,
https://arxiv.org/abs/2410.05258, equations 1 to 3.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

_EPSILON = 1e-5
"""Added to the mean of squares in the norm, as in the authors' code."""
_SPREAD = 0.1
"""Standard deviation of the lambda vectors at the start of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferentialOptions:
    """Options of differential attention."""

    depth: int = 0
    """Place of the layer in the network, from 0; the weight of the second map starts at l_0."""
    qkv_bias: bool = False
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ValueError(f"depth is {self.depth}, must be >= 0")


class DifferentialMix(nn.Module):
    """O of the module docstring.

    Parameters: `lambda_q1`, `lambda_k1`, `lambda_q2`, `lambda_k2` (a_1, b_1, a_2, b_2) and `norm`
    [head_dim].
    """

    def __init__(self, shape: AttentionShape, options: DifferentialOptions) -> None:
        """Build for the head_dim of `shape`; its grid plays no part."""
        super().__init__()
        self.causal = shape.causal
        self.least = 0.8 - 0.6 * math.exp(-0.3 * options.depth)
        half = shape.head_dim // 2
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.empty(half).normal_(std=_SPREAD)) for _ in range(4)
        )
        self.norm = nn.Parameter(torch.ones(shape.head_dim))

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Return O; `x` and `grid` play no part."""
        wide = torch.promote_types(q.dtype, torch.float32)
        scale = (q.shape[-1] // 2) ** -0.5
        scores = _halves(q * scale) @ _halves(k).mT
        if self.causal:
            # adding a matrix is faster than filling by a mask
            scores.add_(scores.new_full(scores.shape[-2:], float("-inf")).triu(1))
        first, second = scores.softmax(-1, dtype=wide).unbind(2)
        weights = torch.addcmul(first, second, self.weight(wide), value=-1)
        out = (weights.to(v.dtype) @ v).to(wide)
        shrunk = torch.rsqrt(out.square().mean(-1, keepdim=True) + _EPSILON) * (1 - self.least)
        return (out * shrunk).to(v.dtype) * self.norm

    def weight(self, dtype: torch.dtype) -> Float[Tensor, ""]:
        """Return l, the weight of the second map."""
        first = (self.lambda_q1.to(dtype) * self.lambda_k1).sum().exp()
        second = (self.lambda_q2.to(dtype) * self.lambda_k2).sum().exp()
        return first - second + self.least


def _halves(heads: Heads) -> Float[Tensor, "batch heads 2 tokens half"]:
    return heads.unflatten(-1, (2, -1)).transpose(2, 3)


def make(shape: AttentionShape, options: DifferentialOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, DifferentialMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: DifferentialOptions) -> int:
    """4 B N^2 C: scores of both maps, and weighted values; causal weights are not skipped.

    B batch, N tokens, C channels.
    """
    return 4 * shape.batch * shape.tokens**2 * shape.channels


def state_floats(shape: AttentionShape, _options: DifferentialOptions) -> int:
    """2 N C: every key and every value."""
    return 2 * shape.tokens * shape.channels


def own_limits(shape: AttentionShape, _options: DifferentialOptions) -> tuple[str, ...]:
    """Queries and keys are cut into halves."""
    if shape.head_dim % 2:
        return (f"head_dim is {shape.head_dim}; two maps need an even one",)
    return ()


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `MultiheadDiffAttn`."""
    vectors = {f"lambda_{name}": f"lambda_{name}" for name in ("q1", "k1", "q2", "k2")}
    inputs = ("q_proj", "k_proj", "v_proj")
    return adopt_projections(official, inputs, "out_proj", {**vectors, "subln.weight": "norm"})


SPEC = AttentionSpec(
    name="differential",
    title="Differential attention",
    family="pairwise",
    paper=Paper(
        title="Differential Transformer",
        authors=(
            "Tianzhu Ye",
            "Li Dong",
            "Yuqing Xia",
            "Yutao Sun",
            "Yi Zhu",
            "Gao Huang",
            "Furu Wei",
        ),
        year=2025,
        venue="ICLR",
        url="https://arxiv.org/abs/2410.05258",
        equation="equations 1 to 3",
        code="https://github.com/microsoft/unilm/blob/"
        "768a3c873f598bb9b4d4dfb9267b099e35f8fe56/Diff-Transformer/multihead_diffattn.py",
    ),
    revision=1,
    formula=r"O = (1 - \lambda_0)\, \mathrm{norm}\!\left(\left(\mathrm{softmax}\frac{Q_1 K_1^\top}"
    r"{\sqrt{d/2}} - \lambda\, \mathrm{softmax}\frac{Q_2 K_2^\top}{\sqrt{d/2}}\right) V\right),"
    r"\quad \lambda = e^{a_1^\top b_1} - e^{a_2^\top b_2} + \lambda_0",
    deviations=(
        (
            "heads are the paper's heads, so head_dim is twice the width of its queries and keys. "
            "The paper gives a network half the heads of the one that it is compared with; at the "
            "same heads and head_dim as softmax attention this layer has two maps a head, each of "
            "half the channels."
        ),
        (
            "The code is causal unless it is given a mask; here all tokens attend to all unless "
            "causal=True."
        ),
        (
            "The code turns queries and keys with their position (RoPE); the mechanism needs no "
            "position, and here there is none."
        ),
        (
            "In half precision both softmaxes, their difference and the norm are computed in "
            "float32; the code rounds the maps before it takes the difference."
        ),
        "Fewer keys and values than queries (num_kv_heads) are not offered.",
        "The published output projection has no bias; here it has one, as in other variants.",
    ),
    scaling="There is nothing to scale; cost and memory grow with the square of the tokens.",
    options=DifferentialOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 2.0,
    state_floats=state_floats,
    own_limits=own_limits,
    traits=Traits(
        causal=True,
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
