"""Flow attention (Flowformer): linear attention in which flow is conserved at both ends.

    O_i = sigmoid(s_i) I_i q_i^T sum_j k_j (c_j v_j)^T,    c = N softmax(t)
    I_i = 1 / (q_i . sum_j k_j),    s_i = q_i . sum_j k_j J_j    (what flows into query i)
    J_j = 1 / (k_j . sum_i q_i),    t_j = k_j . sum_i q_i I_i    (what flows out of key j)

q_i, k_j: sigmoids of query and key of one head, v_j its value, each of d numbers; i, j run over the
N tokens. I and J are the flows of plain linear attention inverted; s and t the flows once the other
end is held at 1: t, limited to -1..1, lets keys compete for the queries, and s decides how much of
what it gathered a query takes in. An epsilon is added to q and k, to each sum over tokens, and to
each product. Rows of weights do not sum to 1, but are not negative; linear in N.

Causal: sums over tokens run up to i (or j), flows are multiplied by the number of tokens so far to
keep their size, c_j = j exp(t_j) / sum_{j' <= j} exp(t_j').

Wu, Wu, Xu, Wang, Long, "Flowformer: Linearizing Transformers with Conservation Flows", ICML 2022,
https://arxiv.org/abs/2202.06258, section 3.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from attention_impls.multihead import FunctionMix, MultiHead, adopt_projections
from attention_impls.parts.linear_attention import (
    causal_product,
    causal_product_flops,
    key_value_mean,
    token_mean,
)
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
PerToken = Float[Tensor, "batch heads tokens 1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowOptions:
    """Options of flow attention."""

    epsilon: int | float = 1e-6
    """Added to queries and keys and to their sums over tokens."""
    outer_epsilon: int | float = 1e-6
    """Added to each product of the two; the causal form has none."""
    source_limit: int | float = 1.0
    """Largest size of t, the flow for which keys compete."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        for name in ("epsilon", "outer_epsilon"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be >= 0")
        if not self.source_limit > 0:
            raise ValueError(f"source_limit is {self.source_limit}, must be > 0")


def attend(
    q: Heads,
    k: Heads,
    v: Heads,
    *,
    epsilon: int | float,
    outer_epsilon: int | float,
    source_limit: int | float,
) -> Heads:
    """Return O of the module docstring over all tokens.

    Sums over tokens are means here, so that every flow is a number near 1: I and J are N times, and
    the state is a N-th of, what the formula says.
    """
    q, k = (_per_channel(t) for t in (q, k))
    tokens = q.shape[2]

    def flow(x: Heads, mean: Float[Tensor, "batch heads head_dim one"], share: int) -> PerToken:
        """(x + epsilon) . (sum + epsilon) + outer_epsilon, the sums over `share` tokens."""
        summed = mean + epsilon / share
        # (x + epsilon) . summed without a copy of x
        offset = epsilon * summed.sum(2, keepdim=True) + outer_epsilon / share
        return (x @ summed.to(x.dtype)).to(offset.dtype).add_(offset)

    incoming = flow(q, token_mean(k).mT, tokens).reciprocal()
    outgoing = flow(k, token_mean(q).mT, tokens).reciprocal()
    sink = flow(q, _weighted_mean(k, outgoing), 1)
    source = flow(k, _weighted_mean(q, incoming), 1).clamp(-source_limit, source_limit)
    competition = source.softmax(2) * tokens
    state = key_value_mean(k, v * competition.to(v.dtype))
    return (q @ state).mul_((incoming * sink.sigmoid()).to(v.dtype))


def attend_causal(
    q: Heads, k: Heads, v: Heads, *, epsilon: int | float, source_limit: int | float
) -> Heads:
    """Return O of the module docstring with sums up to each token, in float32 or better."""
    accumulator = torch.promote_types(q.dtype, torch.float32)
    q, k = (t.to(accumulator).sigmoid() for t in (q, k))
    seen = torch.arange(1, q.shape[2] + 1, device=q.device, dtype=accumulator).unsqueeze(1)

    def flow(x: Heads, summands: Heads) -> PerToken:
        return ((x + epsilon) * (summands.cumsum(2) + epsilon)).sum(3, keepdim=True)

    incoming, outgoing = flow(q, k).reciprocal(), flow(k, q).reciprocal()
    sink = flow(q, k * (outgoing * seen)) / seen
    source = (flow(k, q * (incoming * seen)) / seen).clamp(-source_limit, source_limit).exp()
    competition = source / source.cumsum(2) * seen
    return causal_product(q * (incoming * sink.sigmoid()), k, v * competition).to(v.dtype)


def _per_channel(x: Heads) -> Heads:
    # a strided input would be copied by each of the products that reads it
    return x.sigmoid().contiguous()


def _weighted_mean(x: Heads, weights: PerToken) -> Float[Tensor, "batch heads head_dim 1"]:
    # one row times a matrix, which is several times faster than a matrix times one column
    return key_value_mean(weights.to(x.dtype), x).mT.to(weights.dtype)


def make(shape: AttentionShape, options: FlowOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    both = {"epsilon": options.epsilon, "source_limit": options.source_limit}
    function = (
        partial(attend_causal, **both)
        if shape.causal
        else partial(attend, outer_epsilon=options.outer_epsilon, **both)
    )
    return MultiHead(shape, FunctionMix(function), qkv_bias=options.qkv_bias)


def _running_flops(shape: AttentionShape) -> int:
    return 8 * shape.batch * shape.tokens * shape.channels


def core_flops(shape: AttentionShape, _options: FlowOptions) -> int:
    """4 B N C d + 12 B N C: keys times values, queries times that; four flows, two weighted sums.

    B batch, N tokens, C channels, d head_dim. Causal, with N rounded up to P tokens in chunks of
    c = min(64, N): 4 B P C d + 4 B P C c + 8 B N C; the weighted sums are running sums there.
    """
    batch, tokens, head_dim = shape.batch, shape.tokens, shape.head_dim
    if shape.causal:
        products = causal_product_flops(batch, shape.heads, tokens, head_dim, features=head_dim)
        return products + _running_flops(shape)
    return batch * tokens * shape.channels * (4 * head_dim + 12)


def uncounted(shape: AttentionShape, _options: FlowOptions) -> tuple[int, str]:
    """8 B N C of the causal form, whose flows pair each token with a sum of its own."""
    sentence = "Causal flows are products of single vectors, written as elementwise operations."
    return (_running_flops(shape) if shape.causal else 0), sentence


def state_floats(shape: AttentionShape, _options: FlowOptions) -> int:
    """C d + 2 C + h: the sums of k v^T, k and k J and the total of exp(t), per head."""
    return shape.channels * (shape.head_dim + 2) + shape.heads


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `Flow_Attention` of the vision model (`qkv`) or of the core file."""
    if "qkv.weight" in official:
        return adopt_projections(official, ("qkv",), "proj", {})
    inputs = ("query_projection", "key_projection", "value_projection")
    return adopt_projections(official, inputs, "out_projection", {})


SPEC = AttentionSpec(
    name="flow",
    title="Flow attention (Flowformer)",
    family="feature_map",
    paper=Paper(
        title="Flowformer: Linearizing Transformers with Conservation Flows",
        authors=("Haixu Wu", "Jialong Wu", "Jiehui Xu", "Jianmin Wang", "Mingsheng Long"),
        year=2022,
        venue="ICML",
        url="https://arxiv.org/abs/2202.06258",
        equation="section 3, Flow-Attention",
        code="https://github.com/thuml/Flowformer/tree/61f5d8c83907955a8bc226af03b81b59b2724c8f",
    ),
    revision=1,
    formula=r"O_i = \sigma(s_i)\, \frac{q_i^\top}{q_i^\top \sum_j k_j} \sum_j k_j\, (c_j v_j)^\top,"
    r" \quad c = N\, \mathrm{softmax}(t), \quad"
    r" s_i = q_i^\top \sum_j \frac{k_j}{k_j^\top \sum_{i'} q_{i'}}, \quad"
    r" t_j = k_j^\top \sum_i \frac{q_i}{q_i^\top \sum_{j'} k_{j'}}",
    deviations=(
        (
            "The paper has no epsilon; the authors' core file adds 1e-6 inside the products and "
            "their vision model outside as well. The default is the vision model, which the "
            "published image results used; outer_epsilon=0 is the core file."
        ),
        (
            "The limits -1 and 1 of the competing flow are in the authors' code and not in the "
            "paper; their language model has -5 and 5: source_limit=5."
        ),
        (
            "Sums over tokens are taken as means and I and J N times as large: the same function, "
            "but every flow is near 1, whatever the length and precision."
        ),
        (
            "The core file drops 5 % of its output in training; the vision model drops none, and "
            "neither does this layer."
        ),
        (
            "The causal form is that of the core file, which has no outer epsilon; it works on "
            "chunks of 64 tokens, where theirs keeps a state for every token."
        ),
    ),
    scaling="No option depends on the grid; flows keep their size while it grows.",
    options=FlowOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=True,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=True,
        rows_sum_to_one=False,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    uncounted=uncounted,
    adopt_official=adopt_official,
)
