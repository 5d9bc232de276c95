"""Taylor linear attention (Based): exp replaced by its second-order series, on narrow queries.

    O_i = sum_j w_ij v_j / (sum_j w_ij + epsilon),    w_ij = 1 + s_ij + s_ij^2 / 2
    s_ij = q_i . k_j / sqrt(f)

q_i, k_j: query and key of one head, of f numbers (16, fewer than the head's d values); v_j its
value; j runs over the N tokens. A weight is a product of features of i and of j, with t = x / f^1/4

    phi(x) = [1, t_a, t_a^2 / sqrt(2), t_a t_b]    for all a, and all a < b

of which there are F = 1 + f + f (f + 1) / 2 = 153, so that the cost is linear in N; as w >= 1/2 no
row can vanish. With the sums over j <= i it is a recurrence.

Arora, Eyuboglu, Zhang, Timalsina, Alberti, Zinsley, Zou, Rudra, Re, "Simple linear attention
language models balance the recall-throughput tradeoff", ICML 2024,
https://arxiv.org/abs/2402.18668, section 4.1.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.linear_attention import (
    causal_normalised_product,
    normalised_product,
    normalised_product_flops,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Narrow = Float[Tensor, "batch heads tokens query_dim"]
Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaylorOptions:
    """Options of Taylor linear attention."""

    feature_dim: int = 16
    """Channels f of a head's queries and keys; at most head_dim are used."""
    epsilon: int | float = 1e-12
    """Added to the sum of the weights of a row."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.feature_dim < 1:
            raise ValueError(f"feature_dim is {self.feature_dim}, must be >= 1")
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon is {self.epsilon}, must be >= 0")


def series(x: Narrow) -> Float[Tensor, "batch heads tokens features"]:
    """Return phi(x) of the module docstring, each square before its products."""
    x = x * x.shape[-1] ** -0.25
    halved = x * math.sqrt(0.5)
    terms = [torch.ones_like(x[..., :1]), x]
    for a in range(x.shape[-1]):
        own = x[..., a : a + 1]
        terms += [own * halved[..., a : a + 1], own * x[..., a + 1 :]]
    return torch.cat(terms, -1)


class TaylorMix(nn.Module):
    """The formula of the module docstring; no parameters."""

    def __init__(self, shape: AttentionShape, options: TaylorOptions) -> None:
        """Build; `shape` says whether it is causal."""
        super().__init__()
        self.used = query_dim(shape, options)
        self.epsilon = options.epsilon
        self.causal = shape.causal

    def forward(self, q: Narrow, k: Narrow, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return O from the first `feature_dim` channels of q and k, which are all the layer has.

        Given q and k of head_dim channels, as every other mechanism takes them, the rest is unused.
        """
        q, k = (series(t[..., : self.used]) for t in (q, k))
        if q.dtype in (torch.float16, torch.bfloat16):
            # a square leaves float16 above 256; a row may be scaled, it divides itself out
            q = q / q.amax(-1, keepdim=True)
        product = causal_normalised_product if self.causal else normalised_product
        return product(q, k, v, self.epsilon)


class Taylor(MultiHead):
    """The layer. Parameters: `qkv` (narrow queries, narrow keys, values) and `out`."""

    def __init__(self, shape: AttentionShape, options: TaylorOptions) -> None:
        """Build for the channels of `shape`; its grid plays no part."""
        super().__init__(shape, TaylorMix(shape, options), qkv_bias=options.qkv_bias)
        self.narrow = shape.heads * query_dim(shape, options)
        width = 2 * self.narrow + shape.channels
        self.qkv = nn.Linear(shape.channels, width, bias=options.qkv_bias)

    def project(self, x: Stream) -> tuple[Narrow, Narrow, Heads]:
        """Return q and k of feature_dim channels a head, and v."""
        q, k, v = self.qkv(x).tensor_split((self.narrow, 2 * self.narrow), 2)
        by_head = [t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v)]
        return by_head[0], by_head[1], by_head[2]


def query_dim(shape: AttentionShape, options: TaylorOptions) -> int:
    """Channels of a head's queries and keys: feature_dim, or head_dim where that is less."""
    return min(options.feature_dim, shape.head_dim)


def feature_count(shape: AttentionShape, options: TaylorOptions) -> int:
    """F = 1 + f + f (f + 1) / 2."""
    width = query_dim(shape, options)
    return 1 + width + width * (width + 1) // 2


def core_flops(shape: AttentionShape, options: TaylorOptions) -> int:
    """4 B N C F + 2 B N h F with F features: keys times values, queries times that, row sums.

    B batch, N tokens, C channels, h heads. Causal, with N rounded up to P tokens in chunks of
    c = min(64, N): 4 B P C F + 2 B P h F + 2 B P c (h F + C).
    """
    return normalised_product_flops(
        shape.batch,
        shape.heads,
        shape.tokens,
        shape.head_dim,
        causal=shape.causal,
        features=feature_count(shape, options),
    )


def projection_flops(shape: AttentionShape, options: TaylorOptions) -> int:
    """4 B N C (h f + C): queries and keys of f channels a head, values and out of C."""
    narrow = shape.heads * query_dim(shape, options)
    return 4 * shape.batch * shape.tokens * shape.channels * (narrow + shape.channels)


def state_floats(shape: AttentionShape, options: TaylorOptions) -> int:
    """Numbers of h F (d + 1): the sum of phi(k) v^T and of phi(k), per head."""
    return shape.heads * feature_count(shape, options) * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `LinearAttention` of HazyResearch/based, or `Based` of HazyResearch/zoology."""
    out = "proj_o" if "proj_o.weight" in official else "out_proj"
    return adopt_projections(official, ("proj_q", "proj_k", "proj_v"), out, {})


SPEC = AttentionSpec(
    name="taylor",
    title="Taylor linear attention (Based)",
    family="feature_map",
    paper=Paper(
        title="Simple linear attention language models balance the recall-throughput tradeoff",
        authors=(
            "Simran Arora",
            "Sabri Eyuboglu",
            "Michael Zhang",
            "Aman Timalsina",
            "Silas Alberti",
            "Dylan Zinsley",
            "James Zou",
            "Atri Rudra",
            "Christopher Ré",
        ),
        year=2024,
        venue="ICML",
        url="https://arxiv.org/abs/2402.18668",
        equation="section 4.1, the Taylor feature map",
        code="https://github.com/HazyResearch/based/blob/"
        "32c1bd4e09c8f7f718b0ed3f2e0a333908297879/based/models/mixers/linear_attention.py",
    ),
    revision=1,
    formula=r"O_i = \frac{\sum_j w_{ij}\, v_j}{\sum_j w_{ij} + \varepsilon}, \quad"
    r" w_{ij} = 1 + s_{ij} + \tfrac{1}{2} s_{ij}^2, \quad s_{ij} = \frac{q_i^\top k_j}{\sqrt{f}}",
    deviations=(
        (
            "Each product of two different channels is one feature here, F = 153 for f = 16, as "
            "the paper counts its state; the authors' forward pass keeps both orders, 273 "
            "features, which is the same function."
        ),
        (
            "The authors' code is causal, and zoology's quadratic view stays so when asked not to "
            "be; here all tokens is the same sum without a mask."
        ),
        (
            "The series stands for exp on queries and keys of f channels; it is not meant to give "
            "what softmax attention gives on the head's full width."
        ),
        (
            "The mechanism alone: the Based model mixes such layers with sliding windows of 64 "
            "tokens and short convolutions."
        ),
        (
            "Heads narrower than feature_dim have queries and keys of head_dim channels. The "
            "published projections have no bias; qkv_bias=True adds one, as other variants have."
        ),
        (
            "Queries' features are divided by their largest in half precision, which divides "
            "itself out but for epsilon; sums over tokens are taken as means; the causal form "
            "works on chunks of 64 tokens."
        ),
    ),
    scaling="No option depends on the grid; the state, 153 (d + 1) numbers a head, keeps its size.",
    options=TaylorOptions(),
    make=Taylor,
    core_flops=core_flops,
    projection_flops=projection_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=True,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=True,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
