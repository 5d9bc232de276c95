"""Hydra attention: linear attention with as many heads as channels, on unit-length tokens.

    O_i = u(q_i) * sum_j u(k_j) * v_j,    u(x) = x / ||x||

q_i, k_j, v_j: query, key and value of a token, each of C numbers, heads side by side; j runs over
the N tokens; * multiplies channel by channel; ||.|| the Euclidean norm over all C channels. Each
channel is a head of width 1, so the state is C numbers and nothing grows with the width of a head;
the heads of the layer play no part. No softmax, no row normalisation, no division by N. With the
sum over j <= i it is a recurrence.

Bolya, Fu, Dai, Zhang, Hoffman, "Hydra Attention: Efficient Attention with Many Heads", ECCV
workshops 2022, https://arxiv.org/abs/2209.07484, section 3.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from attention_impls.multihead import FunctionMix, MultiHead, merge_heads
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, NoOptions, Paper, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]

SMALLEST_NORM = 1e-12
"""A token of this length or less is divided by this; the paper divides by zero there."""


def inverse_norm(x: Stream) -> Float[Tensor, "batch tokens 1"]:
    """1 / ||x|| of each token, in float32 or better."""
    accumulator = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=2, keepdim=True, dtype=accumulator)
    return norm.clamp_min(SMALLEST_NORM).reciprocal()


def attend(q: Heads, k: Heads, v: Heads, *, causal: bool) -> Heads:
    """Return O of the module docstring; `causal` sums over j <= i."""
    size = v.shape[1], v.shape[3]
    q, k, v = (merge_heads(t) for t in (q, k, v))
    scale = inverse_norm(k)
    weighted = (k * v).to(scale.dtype)
    # one product does both: the keys' norms are the row that sums over the tokens
    gathered = (weighted * scale).cumsum(1) if causal else scale.mT @ weighted
    out = (q * inverse_norm(q)).mul_(gathered).to(v.dtype)
    return out.unflatten(2, size).transpose(1, 2)


def make(shape: AttentionShape, options: NoOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    return MultiHead(
        shape, FunctionMix(partial(attend, causal=shape.causal)), qkv_bias=options.qkv_bias
    )


def core_flops(shape: AttentionShape, _options: NoOptions) -> int:
    """4 B N C: keys times values and queries times that, in C heads of width 1.

    B batch, N tokens, C channels: linear attention's 4 B N C d with d = 1.
    """
    return 4 * shape.batch * shape.tokens * shape.channels


def state_floats(shape: AttentionShape, _options: NoOptions) -> int:
    """C: one number a channel."""
    return shape.channels


def uncounted(shape: AttentionShape, options: NoOptions) -> tuple[int, str]:
    """4 B N C if causal, 2 B N C otherwise: products of 1 x 1 matrices, element by element."""
    sentence = "Products of heads of width 1 are elementwise operations, which no counter counts."
    seen = 0 if shape.causal else 2 * shape.batch * shape.tokens * shape.channels
    return core_flops(shape, options) - seen, sentence


SPEC = AttentionSpec(
    name="hydra",
    title="Hydra attention",
    family="feature_map",
    paper=Paper(
        title="Hydra Attention: Efficient Attention with Many Heads",
        authors=(
            "Daniel Bolya",
            "Cheng-Yang Fu",
            "Xiaoliang Dai",
            "Peizhao Zhang",
            "Judy Hoffman",
        ),
        year=2022,
        venue="ECCV Workshops",
        url="https://arxiv.org/abs/2209.07484",
        equation="section 3, Hydra attention with the cosine similarity feature map",
        code=None,
    ),
    revision=1,
    formula=r"O_i = \frac{q_i}{\lVert q_i \rVert} \odot \sum_j"
    r" \frac{k_j}{\lVert k_j \rVert} \odot v_j",
    deviations=(
        (
            "The authors published no repository; the code in the paper's appendix, as "
            "robflynnyh/hydra-linear-attention has it, was read and gives the same outputs."
        ),
        (
            "Norms are at least 1e-12, so that a token of zeros gives zeros where the appendix "
            "divides zero by zero."
        ),
        (
            "Norms, sums and products are taken in float32 for half precision inputs: the sum over "
            "tokens is not divided by their number and loses its last terms otherwise."
        ),
        "The paper shows no causal form; it is the same sum over j <= i, a recurrence.",
    ),
    scaling="No option depends on the grid; the state is C numbers at every size, and the output "
    "grows with the number of tokens, because nothing divides by it.",
    options=NoOptions(),
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
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    uncounted=uncounted,
)
