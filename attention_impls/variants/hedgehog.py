"""Hedgehog: linear attention with learned features that are softmaxes over the channels.

    O_i = sum_j (f(q_i) . g(k_j)) v_j / (sum_j f(q_i) . g(k_j) + epsilon)
    f(q) = [softmax(q W), softmax(-q W)],    g(k) = [softmax(k U), softmax(-k U)]

q_i, k_j, v_j: query, key and value of one head, each of d numbers; j runs over the N tokens; W, U:
learned d x d maps of each head, the identity at first; both softmaxes run over the d channels, and
[a, b] joins two vectors: 2 d features. In the authors' use W and U are first trained so that the
weights resemble those of softmax attention; untrained they do not. Linear in N; with the sums over
j <= i it is a recurrence. No scale 1/sqrt(d).

Zhang, Bhatia, Kumbong, Re, "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax
Mimicry", ICLR 2024, https://arxiv.org/abs/2402.04347, section 4.2.
"""

from dataclasses import dataclass
from typing import Literal

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

Heads = Float[Tensor, "batch heads tokens head_dim"]
Features = Float[Tensor, "batch heads tokens features"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgehogOptions:
    """Options of Hedgehog."""

    activation: Literal["softmax", "exp"] = "softmax"
    """`exp`: divide the exponentials of a token by their largest instead of by their sum."""
    tied: bool = False
    """Queries and keys share one map, U = W."""
    epsilon: int | float = 1e-12
    """Smallest feature, and added to the sum of the weights of a row."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.activation not in ("softmax", "exp"):
            raise ValueError(f"activation is {self.activation!r}, must be 'softmax' or 'exp'")
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon is {self.epsilon}, must be >= 0")


class HedgehogMix(nn.Module):
    """The formula of the module docstring.

    Parameters: `query_map` [heads, head_dim, head_dim] (W) and, unless tied, `key_map` (U).
    """

    def __init__(self, shape: AttentionShape, options: HedgehogOptions) -> None:
        """Build for the heads of `shape`; both maps start as the identity."""
        super().__init__()
        self.causal = shape.causal
        self.activation = options.activation
        self.epsilon = options.epsilon
        identity = torch.eye(shape.head_dim).repeat(shape.heads, 1, 1)
        self.query_map = nn.Parameter(identity)
        self.key_map = None if options.tied else nn.Parameter(identity.clone())

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Return O; `x` and `grid` play no part."""
        q = self.features(q @ self.query_map)
        k = self.features(k @ (self.query_map if self.key_map is None else self.key_map))
        product = causal_normalised_product if self.causal else normalised_product
        return product(q, k, v, self.epsilon)

    def features(self, mapped: Heads) -> Features:
        """Join the softmaxes of a mapped query or key and of its negative."""
        if self.activation == "softmax":
            halves = (mapped.softmax(-1), mapped.neg().softmax(-1))
        else:
            halves = (
                (mapped - mapped.amax(-1, keepdim=True)).exp(),
                (mapped.amin(-1, keepdim=True) - mapped).exp(),
            )
        return torch.cat(halves, -1).clamp(min=self.epsilon)


def make(shape: AttentionShape, options: HedgehogOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, HedgehogMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: HedgehogOptions) -> int:
    """12 B N C d + 4 B N C: the two maps 4, keys times values and queries times that 8; row sums.

    B batch, N tokens, C channels, d head_dim. Causal, with N rounded up to P tokens in chunks of
    c = min(64, N): 4 B N C d + 8 B P C d + 4 B P C + 6 B P C c.
    """
    batch, tokens, head_dim = shape.batch, shape.tokens, shape.head_dim
    maps = 4 * batch * tokens * shape.channels * head_dim
    return maps + normalised_product_flops(
        batch, shape.heads, tokens, head_dim, causal=shape.causal, features=2 * head_dim
    )


def state_floats(shape: AttentionShape, _options: HedgehogOptions) -> int:
    """2 C d + 2 C: the sum of g(k) v^T and the sum of g(k), per head."""
    return 2 * shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one attention layer of LoLCATs, with feature maps of its own for queries and keys."""
    maps = {"feature_map_q.mlp.layer": "query_map", "feature_map_k.mlp.layer": "key_map"}
    return adopt_projections(official, ("q_proj", "k_proj", "v_proj"), "o_proj", maps)


SPEC = AttentionSpec(
    name="hedgehog",
    title="Hedgehog",
    family="feature_map",
    paper=Paper(
        title="The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry",
        authors=("Michael Zhang", "Kush Bhatia", "Hermann Kumbong", "Christopher Ré"),
        year=2024,
        venue="ICLR",
        url="https://arxiv.org/abs/2402.04347",
        equation="section 4.2, the learned feature map with negation",
        code="https://github.com/HazyResearch/lolcats/blob/"
        "375df84f58417a57b78c875fa3f8fa76e84ab12e/src/model/feature_map.py",
    ),
    revision=1,
    formula=r"O_i = \frac{f(q_i)^\top \sum_j g(k_j)\, v_j^\top}{f(q_i)^\top \sum_j g(k_j) +"
    r" \varepsilon}, \quad f(q) = [\mathrm{softmax}(q W), \mathrm{softmax}(-q W)], \quad"
    r" g(k) = [\mathrm{softmax}(k U), \mathrm{softmax}(-k U)]",
    deviations=(
        (
            "The paper writes the features as exponentials exp(x W) and exp(-x W); the authors' "
            "code divides each half by its sum over the channels (the default here), or, as its "
            "other form, by its largest number: activation='exp'. For keys that is another "
            "function than the plain exponential, because every token is divided by its own."
        ),
        (
            "W and U have no bias and start as the identity, as in the code's untied heads; the "
            "language models around them rotate queries and keys first and share keys between "
            "heads, which is not part of this layer. Their projections have no bias."
        ),
        (
            "The training against softmax weights that gives the mechanism its name is a way of "
            "training and not part of the layer."
        ),
        (
            "The authors' code is causal; all tokens is the same sum without a mask. Sums over "
            "tokens are taken as means, and the causal form works on chunks of 64 tokens."
        ),
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows.",
    options=HedgehogOptions(),
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
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
