"""Efficient attention: a softmax over the channels of a query, another over the tokens of a key.

    O_i = rho(q_i)^T sum_j kappa(K)_j v_j^T,    rho(q)_c = exp(q_c) / sum_c' exp(q_c'),
    kappa(K)_jc = exp(k_jc) / sum_j' exp(k_j'c)

q_i, k_j, v_j: query, key and value of one head, each of d numbers; c, c' channels of a head; j, j'
run over the N tokens. Each channel of the keys is one global attention map, and a query mixes the
d vectors that these maps pool from the values: linear in N, no N x N weights, no temperature. The
implied weights are non-negative and their rows sum to 1, a product of two stochastic matrices.

Shen, Zhang, Zhao, Yi, Li, "Efficient Attention: Attention with Linear Complexities", WACV 2021,
https://arxiv.org/abs/1812.01243, section 3, with the softmax normalisation.
"""

from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor

from attention_impls.multihead import FunctionMix, MultiHead, adopt_projections
from attention_impls.parts.channel_pooling import pooled_values
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientOptions:
    """Options of efficient attention."""

    scaled_queries: bool = False
    """Divide the softmax of the queries by sqrt(d), as lucidrains' code does: rows sum to that."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""


def attend(q: Heads, k: Heads, v: Heads, *, scaled_queries: bool) -> Heads:
    """Return O of the module docstring."""
    state = pooled_values(k, v)
    if scaled_queries:
        state = state * q.shape[-1] ** -0.5
    return q.softmax(-1) @ state


def make(shape: AttentionShape, options: EfficientOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    mix = FunctionMix(partial(attend, scaled_queries=options.scaled_queries))
    return MultiHead(shape, mix, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: EfficientOptions) -> int:
    """4 B N C d: keys times values and queries times that, 2 B N C d each.

    B batch, N tokens, C channels, d head_dim.
    """
    return 4 * shape.batch * shape.tokens * shape.channels * shape.head_dim


def state_floats(shape: AttentionShape, _options: EfficientOptions) -> int:
    """C d: the d pooled values of each head."""
    return shape.channels * shape.head_dim


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `EfficientAttention`, or the global heads of lucidrains' `SelfAttention`."""
    if "to_q.weight" in official:
        return adopt_projections(official, ("to_q", "to_k", "to_v"), "to_out", {})
    # published as convolutions over one position
    flat = {n: t.flatten(1) if n.endswith("weight") else t for n, t in official.items()}
    return adopt_projections(flat, ("queries", "keys", "values"), "reprojection", {})


SPEC = AttentionSpec(
    name="efficient",
    title="Efficient attention",
    family="feature_map",
    paper=Paper(
        title="Efficient Attention: Attention with Linear Complexities",
        authors=("Zhuoran Shen", "Mingyuan Zhang", "Haiyu Zhao", "Shuai Yi", "Hongsheng Li"),
        year=2021,
        venue="WACV",
        url="https://arxiv.org/abs/1812.01243",
        equation="section 3, efficient attention with the softmax normalisation",
        code="https://github.com/cmsflash/efficient-attention/blob/"
        "46a5f9eaf09470affb0ab30932b7748cc3c871ef/efficient_attention.py",
    ),
    revision=1,
    formula=r"O_i = \rho(q_i)^\top \sum_j \kappa(K)_j\, v_j^\top, \quad"
    r" \rho(q)_c = \frac{e^{q_c}}{\sum_{c'} e^{q_{c'}}}, \quad"
    r" \kappa(K)_{jc} = \frac{e^{k_{jc}}}{\sum_{j'} e^{k_{j'c}}}",
    deviations=(
        (
            "The authors' module adds its input to its output; here the residual belongs to the "
            "block around the layer, as with every variant."
        ),
        (
            "The paper has one head and mentions several; here, as in the authors' code, each head "
            "has its own softmax. The authors' loop over heads is one batched product."
        ),
        (
            "The paper also defines a scaling normalisation, Q / sqrt(N) and K / sqrt(N) without "
            "softmax; its results and its code use the softmax normalisation."
        ),
        (
            "Key weights are taken N times as large, in float32 before they are rounded, and the "
            "pooled values as a mean: the same function, but no weight of 1 / N that half "
            "precision cannot hold."
        ),
        (
            "lucidrains' linear-attention-transformer divides the queries' softmax by sqrt(d), "
            "which scaled_queries does; its causal form normalises rows instead of key channels, "
            "which is another mechanism, so causal=True is refused."
        ),
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows.",
    options=EfficientOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
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
