"""YOSO: weights that are collision probabilities of locality-sensitive hashing, sampled.

    O_i = U_i / |U_i|,   U_i = (1 / m) sum_h sum_j [f_h(q_i) = f_h(k_j)] v_j   ("hashes")
                         U_i = sum_j (1 - arccos(c u_i . w_j) / pi)^t v_j      ("expectation")

q_i, k_j, v_j: query, key and value of one head, each of d numbers; u_i = q_i / |q_i| and
w_j = k_j / |k_j|; f_h: t signs of random projections, f_h(x) = (R_h x > 0), R_h [t, d] Gaussian,
drawn once for each head; m hashes. With c = 1 the second U is the expectation of the first, which
is formed by adding values into tables of 2^t rows, linear in tokens. The gradient of the first is
that of a lower bound of the expectation, as published: with B_ij the expectation for c = 1,

    dU_i = sum_j B_ij ((t / 2) (w_j . du_i + u_i . dw_j) v_j + dv_j).

Zeng, Xiong, Ravi, Acharya, Fung, Singh, "You Only Sample (Almost) Once: Linear Cost Self-Attention
Via Bernoulli Sampling", ICML 2021, https://arxiv.org/abs/2111.09714, Sections 3 and 4. Where code
and paper differ, see `deviations`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.headwise_conv import headwise_conv, headwise_conv_flops
from attention_impls.parts.softmax_rows import softmax_rows_flops
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Codes = Int[Tensor, "batch heads tokens hashes"]

_SHRINK = 0.98
"""c: keeps the derivative of the arc cosine finite, as in the authors' code."""
_SEGMENT_TOKENS = 512
"""Queries whose weights are held at once in the backward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YosoOptions:
    """Options of YOSO."""

    estimator: Literal["hashes", "expectation"] = "hashes"
    """Sampled by m hashes, or its expectation (YOSO-E), which costs N x N."""
    hashes: int = 32
    """Hashes m."""
    hash_bits: int = 9
    """Signs t of a hash: 9 in the published language models, 11 in the long-range comparisons."""
    conv_size: int = 0
    """Length of the convolution of V along the tokens (`conv_window` in the code); 0: none."""
    seed: int = 0
    """Seed of R, which is drawn once and kept."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.hashes < 1:
            raise ValueError(f"hashes is {self.hashes}, must be >= 1")
        if not 1 <= self.hash_bits <= 20:
            raise ValueError(f"hash_bits is {self.hash_bits}, must be 1 to 20")
        if self.conv_size < 0 or (self.conv_size and self.conv_size % 2 == 0):
            raise ValueError(f"conv_size is {self.conv_size}, must be 0 or odd")


def codes_of(heads: Heads, directions: Float[Tensor, "heads head_dim signs"], bits: int) -> Codes:
    """Return the hashes as whole numbers: sign number s of a hash counts 2^s."""
    signs = (heads @ directions).unflatten(-1, (-1, bits)) > 0
    powers = torch.tensor([1 << sign for sign in range(bits)], device=heads.device)
    return (signs * powers).sum(-1)


def collision_sums(ours: Codes, theirs: Codes, values: Heads, bits: int) -> Heads:
    """Return the mean over hashes of the sums of `values` with the same hash.

    Args:
        ours: hashes of the rows of the output.
        theirs: hashes of the rows of `values`.
        values: what is summed.
        bits: signs of a hash.
    """
    batch, heads, _, width = values.shape
    table = values.new_zeros(batch * heads << bits, width)
    first = (torch.arange(batch * heads, device=values.device) * 2**bits).view(batch, heads, 1)
    flat = values.reshape(-1, width)
    total = torch.zeros_like(flat)
    for row, column in zip(ours.unbind(-1), theirs.unbind(-1), strict=True):
        sums = table.index_add(0, (column + first).flatten(), flat)
        total = total + sums.index_select(0, (row + first).flatten())
    return (total * (1 / ours.shape[-1])).view_as(values)


class _SampledWeights(torch.autograd.Function):
    """U of the estimator `hashes`, with the gradient of the module docstring."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, directions: Tensor, bits: int) -> Tensor:
        of_queries, of_keys = (codes_of(t, directions, bits) for t in (q, k))
        ctx.save_for_backward(q, k, v, of_queries, of_keys)
        ctx.bits = bits
        return collision_sums(of_queries, of_keys, v, bits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, of_queries, of_keys = ctx.saved_tensors
        grad = gradients[0]
        grad_v = collision_sums(of_keys, of_queries, grad, ctx.bits)
        half = ctx.bits / 2
        of_q: list[Tensor] = []
        grad_k = torch.zeros_like(k)
        for start in range(0, q.shape[2], _SEGMENT_TOKENS):
            rows, upstream = (t[:, :, start : start + _SEGMENT_TOKENS] for t in (q, grad))
            weights = (upstream @ v.mT) * collision_probability(rows @ k.mT, ctx.bits)
            of_q.append(weights @ k * half)
            grad_k = grad_k + weights.mT @ rows * half
        return torch.cat(of_q, 2), grad_k, grad_v, None, None


def collision_probability(
    cosines: Float[Tensor, "batch heads rows keys"], bits: int
) -> Float[Tensor, "batch heads rows keys"]:
    """Return (1 - arccos(cosines) / pi)^bits; rounding may take a cosine beyond 1."""
    return (1 - cosines.clamp(-1, 1).acos() / math.pi) ** bits


class YosoMix(nn.Module):
    """The formulas of the module docstring.

    Parameter: `conv` [heads, 1, size, 1], if there is a convolution. Buffer: `directions`
    [heads, head_dim, m t], the R_h, if sampled.
    """

    directions: Tensor

    def __init__(self, shape: AttentionShape, options: YosoOptions) -> None:
        super().__init__()
        self.options = options
        self.sampled = options.estimator == "hashes"
        if self.sampled:
            generator = torch.Generator(device="cpu").manual_seed(options.seed)
            sizes = (shape.heads, shape.head_dim, options.hashes * options.hash_bits)
            drawn = torch.randn(sizes, generator=generator, dtype=torch.float32, device="cpu")
            drawn = drawn.to(device=torch.get_default_device(), dtype=torch.get_default_dtype())
            self.register_buffer("directions", drawn)
        self.conv = None
        if size := options.conv_size:
            self.conv = nn.Parameter(torch.empty(shape.heads, 1, size, 1))
            # as nn.Conv2d: uniform with variance 1 / (3 * fan-in)
            nn.init.uniform_(self.conv, -(size**-0.5), size**-0.5)

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend. Half precision is computed in float32: hashes decide by signs."""
        exact, bits = torch.promote_types(q.dtype, torch.float32), self.options.hash_bits
        queries, keys = (F.normalize(t.to(exact), dim=-1) for t in (q, k))
        values = v.to(exact)
        if self.sampled:
            directions = self.directions.to(exact)
            mixed: Any = _SampledWeights.apply(queries, keys, values, directions, bits)
        else:
            mixed = collision_probability((queries * _SHRINK) @ keys.mT, bits) @ values
        out = F.normalize(mixed, dim=-1).to(q.dtype)
        if self.conv is None:
            return out
        return headwise_conv(v, self.conv.transpose(2, 3), Grid(1, v.shape[2])) + out


def make(shape: AttentionShape, options: YosoOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, YosoMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: YosoOptions) -> int:
    """4 B N C m t + 2 B N C s: the projections that are hashed, the convolution of length s.

    B batch, N tokens, C channels, m hashes of t signs; adding to tables is no contraction. The
    expectation costs 4 B N^2 C instead.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    conv = headwise_conv_flops(batch, tokens, channels, options.conv_size)
    if options.estimator == "expectation":
        return softmax_rows_flops(batch * shape.heads, tokens, tokens, shape.head_dim) + conv
    return 4 * batch * tokens * channels * options.hashes * options.hash_bits + conv


def order(options: YosoOptions) -> float:
    """Exponent in tokens."""
    return 1.0 if options.estimator == "hashes" else 2.0


def state_floats(shape: AttentionShape, options: YosoOptions) -> int:
    """Numbers a query needs: m 2^t C, the tables; keys and values, 2 N C, for the expectation."""
    if options.estimator == "expectation":
        return 2 * shape.tokens * shape.channels
    return (options.hashes << options.hash_bits) * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the authors' `Attention` around their YOSO modules."""
    mix = {"attn.conv.weight": "conv"}
    return adopt_projections(official, ("W_q", "W_k", "W_v"), "ff", mix)


SPEC = AttentionSpec(
    name="yoso",
    title="YOSO",
    family="sparse",
    paper=Paper(
        title=("You Only Sample (Almost) Once: Linear Cost Self-Attention Via Bernoulli Sampling"),
        authors=(
            "Zhanpeng Zeng",
            "Yunyang Xiong",
            "Sathya N. Ravi",
            "Shailesh Acharya",
            "Glenn Fung",
            "Vikas Singh",
        ),
        year=2021,
        venue="ICML",
        url="https://arxiv.org/abs/2111.09714",
        equation="Section 3: Bernoulli sampling by hashing, and its gradient",
        code="https://github.com/mlpen/YOSO/tree/6000487d9cd8e34519aa47650011f458ca0db64c",
    ),
    revision=1,
    formula=(
        r"O_i = \frac{U_i}{\lVert U_i \rVert},\quad"
        r" U_i = \frac1m \sum_{h=1}^{m} \sum_j \bigl[f_h(q_i) = f_h(k_j)\bigr]\, v_j,\quad"
        r" \mathbb{E}\bigl[f_h(q) = f_h(k)\bigr] ="
        r" \left(1 - \frac{\arccos(\hat q^\top \hat k)}{\pi}\right)^{t}"
    ),
    deviations=(
        (
            "The authors' code draws directions anew in every call and for each sequence; here "
            "they are drawn once from a seed, for each head, so that two calls give the same bits."
        ),
        (
            "Directions are Gaussian; the authors' fast hash, three sign changes and Hadamard "
            "transforms, which exists as a GPU kernel alone, is not included."
        ),
        (
            "The gradient of queries and keys takes the expectation of the weights (the authors' "
            "option n2_backward), 512 queries at a time, where their default samples it with the "
            "same hashes: the backward pass takes time with the square of the tokens, and memory "
            "that is linear in them."
        ),
        (
            "The estimator `expectation` shrinks cosines to 0.98 and is differentiated as it is, "
            "as in the second version of the authors' code; their first does not shrink and has "
            "the gradient above."
        ),
        (
            "Hashing is computed in float32 for half-precision inputs, and so is all but the "
            "convolution. On a GPU values are added to tables in no fixed order, so that last "
            "bits may differ between calls."
        ),
    ),
    scaling=(
        "Hashes and their signs keep their number, so cost is linear in tokens; the authors let "
        "signs grow with ln N in their profiles, which keeps the tokens that share a hash few."
    ),
    options=YosoOptions(),
    make=make,
    core_flops=core_flops,
    order=order,
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
        continuous=False,
    ),
    adopt_official=adopt_official,
)
