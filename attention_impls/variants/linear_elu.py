"""Linear attention with the feature map elu + 1, rows normalised ("Transformers are RNNs").

    O_i = sum_j (phi(q_i) . phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + epsilon)
    phi(x) = elu(x) + 1, that is x + 1 for x > 0 and exp(x) otherwise

q_i, k_j, v_j: query, key and value of one head, each of d numbers; N tokens. The product is taken
as phi(Q) (phi(K)^T V), so that the cost is linear in N; with the sums over j <= i it is a
recurrence. No scale 1/sqrt(d).

Katharopoulos, Vyas, Pappas, Fleuret, "Transformers are RNNs: Fast Autoregressive Transformers with
Linear Attention", ICML 2020, https://arxiv.org/abs/2006.16236, equations 5 to 7 and 18.
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
class LinearEluOptions:
    """Options of elu + 1 linear attention."""

    epsilon: int | float = 1e-6
    """Added to the sum of the weights of a row."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon is {self.epsilon}, must be >= 0")


def positive(x: Heads) -> Heads:
    """Return elu(x) + 1."""
    return F.elu(x).add_(1)


def attend(q: Heads, k: Heads, v: Heads, *, epsilon: int | float, causal: bool) -> Heads:
    """Return O of the module docstring; `causal` sums over j <= i."""
    product = causal_normalised_product if causal else normalised_product
    return product(positive(q), positive(k), v, epsilon)


def make(shape: AttentionShape, options: LinearEluOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    mix = FunctionMix(partial(attend, epsilon=options.epsilon, causal=shape.causal))
    return MultiHead(shape, mix, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: LinearEluOptions) -> int:
    """4 B N C d + 2 B N C: keys times values, queries times that, and the row sums.

    B batch, N tokens, C channels, d head_dim. Causal, with N rounded up to P tokens in chunks of
    c = min(64, N): 4 B P C d + 2 B P C + 4 B P C c.
    """
    return normalised_product_flops(
        shape.batch, shape.heads, shape.tokens, shape.head_dim, causal=shape.causal
    )


def state_floats(shape: AttentionShape, _options: LinearEluOptions) -> int:
    """C d + C: the sum of k v^T and the sum of k, per head."""
    return shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `AttentionLayer` around `LinearAttention` of idiap/fast-transformers."""
    inputs = ("query_projection", "key_projection", "value_projection")
    return adopt_projections(official, inputs, "out_projection", {})


SPEC = AttentionSpec(
    name="linear_elu",
    title="Linear attention (elu + 1)",
    family="feature_map",
    paper=Paper(
        title="Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
        authors=("Angelos Katharopoulos", "Apoorv Vyas", "Nikolaos Pappas", "François Fleuret"),
        year=2020,
        venue="ICML",
        url="https://arxiv.org/abs/2006.16236",
        equation="equations 5 to 7; the recurrence is equations 18 to 20",
        code="https://github.com/idiap/fast-transformers/blob/"
        "2ad36b97e64cb93862937bd21fcc9568d989561f/fast_transformers/attention/linear_attention.py",
    ),
    revision=1,
    formula=r"O_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j)\, v_j^\top}"
    r"{\phi(q_i)^\top \sum_j \phi(k_j) + \varepsilon}, \quad \phi(x) = \mathrm{elu}(x) + 1",
    deviations=(
        "Epsilon, 1e-6 on the row sum, is in the authors' code and not in the paper.",
        (
            "Sums over tokens are taken as means, epsilon divided alike, and the queries are "
            "divided instead of the output, half precision in float32: the same function, but no "
            "overflow in float16 on long sequences."
        ),
        (
            "The causal form works on chunks of 64 tokens, half precision in float32, where the "
            "authors' code has a compiled loop over tokens; it equals the recurrence over single "
            "tokens."
        ),
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows.",
    options=LinearEluOptions(),
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
