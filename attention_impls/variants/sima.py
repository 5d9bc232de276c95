"""SimA: queries and keys divided by their l1 norm over the tokens, and no softmax.

    O_i = n(Q)_i^T sum_j n(K)_j v_j^T,    n(Q)_ic = q_ic / sum_i' |q_i'c|

q_i, k_j, v_j: query, key and value of one head, each of d numbers; c a channel of a head; i', j run
over the N tokens. Taken in this order it is linear in N; no scale 1/sqrt(d), no row normalisation.
Weights may be negative, and outputs shrink as N grows, about as N^-1.5 for independent tokens.

Koohpayegani, Pirsiavash, "SimA: Simple Softmax-free Attention for Vision Transformers", WACV 2024,
https://arxiv.org/abs/2206.08898, section 2.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attention_impls.multihead import FunctionMix, MultiHead, adopt_projections
from attention_impls.parts.linear_attention import key_value_mean
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, NoOptions, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

SMALLEST_NORM = 1e-12
"""A channel of this norm over the tokens or less is divided by this, as in the authors' code."""


def inverse_mean_size(x: Heads) -> Float[Tensor, "batch heads head_dim"]:
    """N / (sum over tokens of |x|) of each channel, in float32 or better."""
    accumulator = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, ord=1, dim=2, dtype=accumulator)
    return norm.clamp_min(SMALLEST_NORM).reciprocal() * x.shape[2]


def attend(q: Heads, k: Heads, v: Heads) -> Heads:
    """Return O of the module docstring."""
    # both norms divide the d x d state, not N x d queries and keys
    norms = inverse_mean_size(q).unsqueeze(-1) * inverse_mean_size(k).unsqueeze(-1)
    state = (key_value_mean(k, v) * norms).to(v.dtype)
    # 1 / N comes last, in the accumulator: a state that small is no number of half precision
    out = torch.baddbmm(
        q.new_zeros(()), q.flatten(0, 1), state.flatten(0, 1), beta=0, alpha=1 / q.shape[2]
    )
    return out.unflatten(0, q.shape[:2])


def make(shape: AttentionShape, options: NoOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    return MultiHead(shape, FunctionMix(attend), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: NoOptions) -> int:
    """4 B N C d: keys times values and queries times that, 2 B N C d each.

    B batch, N tokens, C channels, d head_dim.
    """
    return 4 * shape.batch * shape.tokens * shape.channels * shape.head_dim


def state_floats(shape: AttentionShape, _options: NoOptions) -> int:
    """C d: the sum of n(K)_j v_j^T, per head."""
    return shape.channels * shape.head_dim


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `SimA` module."""
    return adopt_projections(official, ("qkv",), "proj", {})


SPEC = AttentionSpec(
    name="sima",
    title="SimA",
    family="feature_map",
    paper=Paper(
        title="SimA: Simple Softmax-free Attention for Vision Transformers",
        authors=("Soroush Abbasi Koohpayegani", "Hamed Pirsiavash"),
        year=2024,
        venue="WACV",
        url="https://arxiv.org/abs/2206.08898",
        equation="section 2, l1 normalisation of queries and keys over the tokens",
        code="https://github.com/UCDvision/sima/blob/"
        "3ec3b8e0f3871aed2dccf466bd7d5fa487260d20/sima.py",
    ),
    revision=1,
    formula=r"O_i = \hat q_i^\top \sum_j \hat k_j\, v_j^\top, \quad"
    r" \hat q_{ic} = \frac{q_{ic}}{\sum_{i'} \lvert q_{i'c} \rvert}, \quad"
    r" \hat k_{jc} = \frac{k_{jc}}{\sum_{j'} \lvert k_{j'c} \rvert}",
    deviations=(
        (
            "Paper and code multiply in the quadratic order where there are fewer tokens than "
            "channels in a head; here the order is always the linear one, the same function."
        ),
        (
            "The norms divide the d x d state and N divides the output as it is accumulated, "
            "instead of queries and keys being divided: entries of 1 / N are no numbers of float16 "
            "on long sequences."
        ),
        (
            "The layer alone: the authors' block has a local patch interaction beside it, and "
            "their class attention comes after the trunk."
        ),
    ),
    scaling="No option depends on the grid; the output shrinks while the grid grows, which the "
    "normalisation after the layer has to make good.",
    options=NoOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
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
