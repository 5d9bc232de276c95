"""ViTALiTy: linear Taylor attention, the first-order series of softmax around the mean key.

    O_i = (sqrt(d) sum_j v_j + q_i^T G) / (N sqrt(d) + q_i . sum_j k^_j)
    G = sum_j k^_j v_j^T,    k^_j = k_j - k_mean

q_i, k_j, v_j: query, key and value of one head, each of d numbers; j runs over the N tokens; k_mean
the mean of k_j over j. A softmax weight is exp(q_i . k^_j / sqrt(d)) up to what all keys of a query
share; 1 + q_i . k^_j / sqrt(d) takes its place. As the k^_j sum to 0 the denominator is N sqrt(d),
and the form computed here is

    O_i = v_mean + q_i^T (sum_j k^_j v_j^T) / (N sqrt(d)),

which is InLine attention without its local residual. Linear in N; weights may be negative.

The authors' code, form='code', is another function, quadratic in N:

    O_i = (sum_j [p_ij > 0.002] p_ij v_j + q_i^T sum_j (k_j - mean_c k_jc) v_j^T) / sqrt(d)

where p are the softmax weights of queries and keys rounded to 4 bits and c runs over the channels.

Dass, Wu, Shi, Li, Ye, Wang, Lin, "ViTALiTy: Unifying Low-rank and Sparse Approximation for Vision
Transformer Acceleration with a Linear Taylor Attention", HPCA 2023,
https://arxiv.org/abs/2211.05109, algorithm 1.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attention_impls.multihead import FunctionMix, MultiHead, adopt_projections
from attention_impls.parts.centred_attention import centred_product
from attention_impls.parts.linear_attention import key_value_mean
from attention_impls.parts.thresholded_attention import attention_above
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

SMALLEST_STEP = 1e-8
"""Between two of the rounded numbers, as in the authors' code: where all numbers are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VitalityOptions:
    """Options of ViTALiTy."""

    form: Literal["paper", "code"] = "paper"
    """`paper`: algorithm 1, what the paper runs at inference; `code`: the authors' module."""
    threshold: int | float = 0.002
    """Form `code`: largest softmax weight that is left out."""
    bits: int = 4
    """Form `code`: queries and keys are rounded to 2^bits numbers for the softmax weights."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.form not in ("paper", "code"):
            raise ValueError(f"form is {self.form!r}, must be 'paper' or 'code'")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}, must be in 0..1")
        if not 1 <= self.bits <= 16:
            raise ValueError(f"bits is {self.bits}, must be in 1..16")


class RoundedThrough(torch.autograd.Function):
    """Rounds to integers; its gradient is that of the identity."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        """Return the nearest integers."""
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        """Pass the gradient on."""
        return gradients[0]


def rounded(x: Heads, bits: int) -> Heads:
    """Round to 2^bits numbers, evenly from the smallest to the largest of each batch item."""
    with torch.no_grad():
        least = x.amin((1, 2, 3), keepdim=True)
        step = (x.amax((1, 2, 3), keepdim=True) - least) / (2**bits - 1)
        step = step.clamp_min(SMALLEST_STEP)
    return RoundedThrough.apply((x - least) / step) * step + least


def attend_as_coded(q: Heads, k: Heads, v: Heads, *, threshold: int | float, bits: int) -> Heads:
    """Return O of form `code`; rounding and softmax in float32 or better."""
    tokens, scale = q.shape[2], q.shape[3] ** -0.5
    accumulator = torch.promote_types(q.dtype, torch.float32)
    coarse_q, coarse_k = (rounded(t.to(accumulator), bits) for t in (q, k))
    sparse = attention_above(coarse_q, coarse_k, v, threshold)
    centred = k - k.mean(3, keepdim=True)
    state = (key_value_mean(centred, v) * (tokens * scale)).to(v.dtype)
    return (q @ state).add_(sparse, alpha=scale)


def make(shape: AttentionShape, options: VitalityOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    function = (
        centred_product
        if options.form == "paper"
        else partial(attend_as_coded, threshold=options.threshold, bits=options.bits)
    )
    return MultiHead(shape, FunctionMix(function), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: VitalityOptions) -> int:
    """4 B N C d, with form `code` 4 B N^2 C more.

    B batch, N tokens, C channels, d head_dim: keys times values, queries times that; the softmax
    weights and their product with the values.
    """
    linear = 4 * shape.batch * shape.tokens * shape.channels * shape.head_dim
    if options.form == "paper":
        return linear
    return linear + 4 * shape.batch * shape.tokens**2 * shape.channels


def order(options: VitalityOptions) -> float:
    """Exponent in tokens: 2 with the softmax weights of form `code`."""
    return 1.0 if options.form == "paper" else 2.0


def state_floats(shape: AttentionShape, options: VitalityOptions) -> int:
    """C d + C: G and the mean of v, per head; form `code` keeps all keys and values, 2 N C, too."""
    if options.form == "paper":
        return shape.channels * (shape.head_dim + 1)
    return shape.channels * (shape.head_dim + 2 * shape.tokens)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `Attention` with vitality=True; the ranges that it remembers are not used."""
    remembered = {
        f"{quantiser}.running_{what}"
        for quantiser in ("quant", "quant_16")
        for what in ("zero_point", "range")
    }
    learned = {name: tensor for name, tensor in official.items() if name not in remembered}
    return adopt_projections(learned, ("qkv",), "proj", {})


SPEC = AttentionSpec(
    name="vitality",
    title="ViTALiTy (linear Taylor attention)",
    family="feature_map",
    paper=Paper(
        title="ViTALiTy: Unifying Low-rank and Sparse Approximation for Vision Transformer "
        "Acceleration with a Linear Taylor Attention",
        authors=(
            "Jyotikrishna Dass",
            "Shang Wu",
            "Huihong Shi",
            "Chaojian Li",
            "Zhifan Ye",
            "Zhongfeng Wang",
            "Yingyan Lin",
        ),
        year=2023,
        venue="HPCA",
        url="https://arxiv.org/abs/2211.05109",
        equation="algorithm 1, linear Taylor attention",
        code="https://github.com/GATECH-EIC/ViTaLiTy/blob/"
        "d0a7947afe70ba809d8b956944a6f57cb7efbca9/src/vision_transformer.py",
    ),
    revision=1,
    formula=r"O_i = \bar v + \frac{q_i^\top}{N \sqrt{d}} \sum_j (k_j - \bar k)\, v_j^\top",
    deviations=(
        (
            "The authors' code is another function than the paper's algorithm 1: it measures keys "
            "from their mean over channels instead of over tokens, has neither the sum of the "
            "values nor a denominator, and keeps the sparse softmax term, which is quadratic, at "
            "inference. Both are forms; `paper`, which the paper runs at inference, is the default."
        ),
        (
            "In form `paper` the denominator is written as N sqrt(d), which it equals because the "
            "centred keys sum to 0, and G is computed from the means: the same function."
        ),
        (
            "The sparse term of the paper's training is not part of form `paper`; form `code` has "
            "the one of the code, in training and inference alike, as there."
        ),
        (
            "In form `code` queries and keys are rounded between the extremes of each item of the "
            "batch. The authors' code takes those of the whole batch in training and remembered "
            "ones at inference; the two agree for one item in training mode."
        ),
        ("The gradient of the rounding is that of the identity, as in the authors' code."),
        "In half precision means, covariance, rounding and softmax are computed in float32.",
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows. In form "
    "`code` fewer weights pass the threshold and the linear term grows with the tokens.",
    options=VitalityOptions(),
    make=make,
    core_flops=core_flops,
    order=order,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=True,
        rows_sum_to_one=True,
        nonnegative_weights=False,
        approximates_softmax=True,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
