"""ReLU linear attention: weights are products of rectified queries and keys, rows normalised.

    O_i = sum_j (relu(q_i) . relu(k_j)) v_j / (sum_j relu(q_i) . relu(k_j) + epsilon)

q_i, k_j, v_j: query, key and value of one head, each of d numbers; N tokens. The product is taken
as relu(Q) (relu(K)^T V), so that the cost is linear in N. There is no scale: it would cancel.

Cai, Li, Hu, Gan, Han, "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense
Prediction", ICCV 2023, https://arxiv.org/abs/2205.14756, equation 2. This is the mechanism alone,
without that paper's convolutions and scales, in the normalisation of Katharopoulos et al., 2020.
"""

from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from attention_impls.multihead import FunctionMix, MultiHead, adopt_projections
from attention_impls.parts.linear_attention import (
    causal_normalised_product,
    normalised_product,
    normalised_product_flops,
)
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearReluOptions:
    """Options of ReLU linear attention."""

    epsilon: int | float = 1e-6
    """Added to the sum of the weights of a row."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"epsilon is {self.epsilon}, must be > 0: a row can sum to zero")


def rectified(x: Heads) -> Heads:
    """Return relu(x), contiguous: a strided x is copied for the products anyway, so in place."""
    return F.relu(x) if x.is_contiguous() else F.relu_(x.contiguous())


def attend(q: Heads, k: Heads, v: Heads, *, epsilon: int | float, causal: bool) -> Heads:
    """Return O of the module docstring; `causal` sums over j <= i."""
    product = causal_normalised_product if causal else normalised_product
    return product(rectified(q), rectified(k), v, epsilon)


def make(shape: AttentionShape, options: LinearReluOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    mix = FunctionMix(partial(attend, epsilon=options.epsilon, causal=shape.causal))
    return MultiHead(shape, mix, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: LinearReluOptions) -> int:
    """4 B N C d + 2 B N C: keys times values, queries times that, and the row sums.

    B batch, N tokens, C channels, d head_dim. Causal, with N rounded up to P tokens in chunks of
    c = min(64, N): 4 B P C d + 2 B P C + 4 B P C c.
    """
    return normalised_product_flops(
        shape.batch, shape.heads, shape.tokens, shape.head_dim, causal=shape.causal
    )


def state_floats(shape: AttentionShape, _options: LinearReluOptions) -> int:
    """C d + C: the sum of k v^T and the sum of k, per head."""
    return shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `AttentionLayer` around `LinearAttention` of idiap/fast-transformers."""
    inputs = ("query_projection", "key_projection", "value_projection")
    return adopt_projections(official, inputs, "out_projection", {})


SPEC = AttentionSpec(
    name="linear_relu",
    title="Linear attention (ReLU)",
    family="feature_map",
    paper=Paper(
        title="EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
        authors=("Han Cai", "Junyan Li", "Muyan Hu", "Chuang Gan", "Song Han"),
        year=2023,
        venue="ICCV",
        url="https://arxiv.org/abs/2205.14756",
        equation="equation 2",
        code="https://github.com/mit-han-lab/efficientvit/blob/"
        "de7d7733cc0329f391b33f1f459271562ec27bd5/efficientvit/models/nn/ops.py",
    ),
    revision=1,
    formula=r"O_i = \frac{\mathrm{relu}(q_i)^\top \sum_j \mathrm{relu}(k_j)\, v_j^\top}"
    r"{\mathrm{relu}(q_i)^\top \sum_j \mathrm{relu}(k_j) + \varepsilon}",
    deviations=(
        (
            "The mechanism alone: EfficientViT's layer also aggregates q, k and v by depthwise "
            "convolutions at several scales and normalises its output over the batch."
        ),
        (
            "Epsilon is 1e-6 on the row sum, as in idiap/fast-transformers with a ReLU feature "
            "map; EfficientViT's code adds 1e-15."
        ),
        (
            "Where no channel of a query is positive in a head, the row of weights is zero, not "
            "normalised: the output of that head is 0."
        ),
        (
            "Sums over tokens are taken as means, epsilon divided alike, and the queries are "
            "divided instead of the output, half precision in float32: the same function, but no "
            "overflow in float16 on long sequences."
        ),
        (
            "The causal form works on chunks of 64 tokens, half precision in float32; it equals "
            "the recurrence over single tokens."
        ),
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows.",
    options=LinearReluOptions(),
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
