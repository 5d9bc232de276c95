"""Linear attention with the feature map exp, rows normalised.

    O_i = sum_j w_ij v_j / sum_j w_ij,    w_ij = phi(q_i) . phi(k_j),    phi(x) = exp(t x)

q_i, k_j, v_j: query, key and value of one head, each of d numbers; j runs over the N tokens; t a
fixed factor. A weight is a sum of exponentials, one a channel, not the exponential of a sum as in
softmax attention. It is computed in the form

    O_i = sum_c softmax_c(t q_ic + L_c) sum_j softmax_j(t k_jc) v_j,    L_c = log sum_j exp(t k_jc)

which is the same number: each channel c pools the values once, and a query mixes the d results.
Nothing overflows, no row needs an epsilon, and the cost is linear in N. With the sums over j <= i
it is a recurrence.

Normalised linear attention: Katharopoulos, Vyas, Pappas, Fleuret, "Transformers are RNNs: Fast
Autoregressive Transformers with Linear Attention", ICML 2020, https://arxiv.org/abs/2006.16236,
equation 5, which leaves phi open.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from attention_impls.multihead import FunctionMix, MultiHead, adopt_projections
from attention_impls.parts.channel_pooling import pooled_values
from attention_impls.parts.linear_attention import causal_product, causal_product_flops
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

LARGEST_EXPONENT = 80.0
"""exp of it is still a float32 with room for a sum over tokens and channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearExpOptions:
    """Options of exponential linear attention."""

    factor: int | float = 0.2
    """t; 1 is the plain exponential."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor is {self.factor}, must be > 0")


def attend(q: Heads, k: Heads, v: Heads, *, factor: int | float) -> Heads:
    """Return O of the module docstring over all tokens."""
    accumulator = torch.promote_types(q.dtype, torch.float32)
    exponents = k * factor
    total = exponents.to(accumulator).logsumexp(2, keepdim=True)
    mixture = (q.to(accumulator) * factor + total).softmax(-1)
    return mixture.to(v.dtype) @ pooled_values(exponents, v)


def attend_causal(q: Heads, k: Heads, v: Heads, *, factor: int | float) -> Heads:
    """Return O of the module docstring with the sums over j <= i.

    Keys are taken relative to L_c over all tokens, which cancels; float32 or better throughout.
    """
    accumulator = torch.promote_types(q.dtype, torch.float32)
    exponents = k.to(accumulator) * factor
    so_far = exponents.logcumsumexp(2)
    last = so_far[:, :, -1:]
    mixture = (q.to(accumulator) * factor + so_far).softmax(-1)
    queries = mixture * (last - so_far).clamp_max(LARGEST_EXPONENT).exp()
    return causal_product(queries, (exponents - last).exp(), v).to(v.dtype)


def make(shape: AttentionShape, options: LinearExpOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    function = attend_causal if shape.causal else attend
    mix = FunctionMix(partial(function, factor=options.factor))
    return MultiHead(shape, mix, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: LinearExpOptions) -> int:
    """4 B N C d: keys times values, queries times that.

    B batch, N tokens, C channels, d head_dim. Causal, with N rounded up to P tokens in chunks of
    c = min(64, N): 4 B P C d + 4 B P C c.
    """
    batch, tokens, head_dim = shape.batch, shape.tokens, shape.head_dim
    if shape.causal:
        return causal_product_flops(batch, shape.heads, tokens, head_dim, features=head_dim)
    return 4 * batch * tokens * shape.channels * head_dim


def state_floats(shape: AttentionShape, _options: LinearExpOptions) -> int:
    """C d + C: the pooled values and L, per head."""
    return shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `AttentionLayer` around `LinearAttention` of idiap/fast-transformers."""
    inputs = ("query_projection", "key_projection", "value_projection")
    return adopt_projections(official, inputs, "out_projection", {})


SPEC = AttentionSpec(
    name="linear_exp",
    title="Linear attention (exp)",
    family="feature_map",
    paper=Paper(
        title="Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
        authors=("Angelos Katharopoulos", "Apoorv Vyas", "Nikolaos Pappas", "François Fleuret"),
        year=2020,
        venue="ICML",
        url="https://arxiv.org/abs/2006.16236",
        equation="equation 5 with phi(x) = exp(t x)",
        code="https://github.com/idiap/fast-transformers/blob/"
        "2ad36b97e64cb93862937bd21fcc9568d989561f/fast_transformers/attention/linear_attention.py",
    ),
    revision=1,
    formula=r"O_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j)\, v_j^\top}"
    r"{\phi(q_i)^\top \sum_j \phi(k_j)}, \quad \phi(x) = e^{t x}",
    deviations=(
        (
            "The paper's own feature map is elu + 1; its equation and its code take any positive "
            "one. The factor t = 0.2 is that of the exponential feature map in the InLine "
            "authors' code (LeapLabTHU/InLine at e463a6f, models/inline_swin.py)."
        ),
        (
            "Weights are computed as two softmaxes, over the tokens of a key channel and over the "
            "channels of a query, which cannot overflow; the code cited forms exp(t x) as it is "
            "and adds 1e-6 to the sum of a row."
        ),
        (
            "The causal form works on chunks of 64 tokens in float32 or better. Channels of the "
            "past that lie more than e^80 below the whole sequence's sum for that channel lose "
            "their weight in it; with t = 0.2 that takes keys that differ by 400."
        ),
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows.",
    options=LinearExpOptions(),
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
