r"""Nystromformer: softmax attention approximated by the Nystrom method with segment means.

    O = F (Z (B V)) + w * V
    F = softmax(Q L_k^T s) [N, m],  A = softmax(L_q L_k^T s) [m, m],  B = softmax(L_q K^T s) [m, N]

Q, K, V: queries, keys, values of one head [N, d], s = d^(-1/2), L_q and L_k: means of Q and K over
m segments of consecutive tokens (landmarks), Z ~ pseudo-inverse of A, w * V: optional convolution
of the values along the token sequence with one filter a head. Z is six steps of

    Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4    from Z = A^T / (largest column sum of A).

With no more tokens than landmarks the softmax is exact.

Xiong et al., "Nystromformer: A Nystrom-Based Algorithm for Approximating Self-Attention", AAAI
2021, https://arxiv.org/abs/2102.03902, Section 3. Code: mlpen/Nystromformer (the authors) and
lucidrains/nystrom-attention. Where they differ, see `deviations`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.headwise_conv import headwise_conv, headwise_conv_flops
from attention_impls.parts.pseudo_inverse import (
    iterative_pseudo_inverse,
    pseudo_inverse_flops,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Initialisation = Literal["per_matrix", "global"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NystromformerOptions:
    """Options of Nystromformer."""

    landmarks: int = 64
    """Segments m that the tokens are averaged into."""
    iterations: int = 6
    """Steps of the iterative pseudo-inverse."""
    conv_size: int = 0
    """Length of the convolution of V along the tokens: published 33, 35, 65; 0: none."""
    initialisation: Initialisation = "per_matrix"
    """Column sums of each matrix alone (`exact` in the authors' code), or the largest one of the
    whole batch (`original`), which makes a sequence depend on the sequences beside it."""
    remainder: Literal["uneven", "pad_left"] = "uneven"
    """Tokens that m does not divide: segments of two lengths, or zero tokens put in front."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.landmarks < 1:
            raise ValueError(f"landmarks is {self.landmarks}, must be >= 1")
        if self.iterations < 0:
            raise ValueError(f"iterations is {self.iterations}, must be >= 0")
        if self.conv_size < 0 or (self.conv_size and self.conv_size % 2 == 0):
            raise ValueError(f"conv_size is {self.conv_size}, must be 0 or odd")


class NystromformerMix(nn.Module):
    """Parameter: `conv` [heads, 1, size, 1], if there is a convolution."""

    def __init__(self, shape: AttentionShape, options: NystromformerOptions) -> None:
        super().__init__()
        self.options = options
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
        """Attend; the tokens are one sequence, extra tokens first."""
        mixed = _softmax(q, k, v) if self._exact(q.shape[2]) else self._nystrom(q, k, v)
        if self.conv is None:
            return mixed
        line = Grid(1, v.shape[2])
        return headwise_conv(v, self.conv.transpose(2, 3), line) + mixed

    def _exact(self, tokens: int) -> bool:
        return is_exact(tokens, self.options)

    def _nystrom(self, q: Heads, k: Heads, v: Heads) -> Heads:
        count = self.options.landmarks
        padding = padded_tokens(q.shape[2], self.options) - q.shape[2]
        padded = q
        if padding:
            padded, k, v = (F.pad(t, (0, 0, padding, 0)) for t in (q, k, v))
        # the inverse amplifies: half precision is not enough for A and Z
        exact = torch.promote_types(q.dtype, torch.float32)
        scale = q.shape[-1] ** -0.5
        query_means = segment_means(padded, count, exact)
        key_means = segment_means(k, count, exact) * scale
        between = (query_means @ key_means.transpose(-1, -2)).softmax(-1)
        scores = (query_means * scale).to(q.dtype) @ k.transpose(-1, -2)
        gathered = (scores.softmax(-1) @ v).to(exact)
        inverse = iterative_pseudo_inverse(
            between, self.options.iterations, together=self.options.initialisation == "global"
        )
        state = (inverse @ gathered).to(q.dtype)
        return (q @ key_means.to(q.dtype).transpose(-1, -2)).softmax(-1) @ state


def _softmax(q: Heads, k: Heads, v: Heads) -> Heads:
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v


def is_exact(tokens: int, options: NystromformerOptions) -> bool:
    """Return whether softmax attention is computed as it is: no more tokens than landmarks."""
    return options.remainder == "uneven" and tokens <= options.landmarks


def padded_tokens(tokens: int, options: NystromformerOptions) -> int:
    """Return the length of the sequence that is cut into segments."""
    if options.remainder == "uneven":
        return tokens
    return -(-tokens // options.landmarks) * options.landmarks


def segment_means(
    heads: Heads, count: int, dtype: torch.dtype
) -> Float[Tensor, "batch heads landmarks head_dim"]:
    """Return the means of `count` consecutive segments, the shorter ones first.

    With N tokens the segments are floor(N / count) or one longer.
    """
    length, longer = divmod(heads.shape[2], count)
    shorter = (count - longer) * length
    means: list[Tensor] = []
    for part, size in ((heads[:, :, :shorter], length), (heads[:, :, shorter:], length + 1)):
        if part.shape[2]:
            means.append(part.unflatten(2, (-1, size)).mean(3, dtype=dtype))
    return means[0] if len(means) == 1 else torch.cat(means, 2)


def make(shape: AttentionShape, options: NystromformerOptions) -> nn.Module:
    """Build the layer."""
    return MultiHead(shape, NystromformerMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: NystromformerOptions) -> int:
    """FLOPs of one mix: 4 B (N + M) m C + 4 B m^2 C + 8 B h t m^3 + 2 B N C s.

    M: tokens after padding, m landmarks, t iterations, s = conv_size. Four products with N or M
    rows, A and Z (B V), four products of m x m matrices an iteration, the convolution. With no
    more tokens than landmarks 4 B N^2 C + 2 B N C s.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    conv = headwise_conv_flops(batch, tokens, channels, options.conv_size)
    if is_exact(tokens, options):
        return 4 * batch * tokens**2 * channels + conv
    count = options.landmarks
    long = tokens + padded_tokens(tokens, options)
    products = 4 * batch * (long * count + count**2) * channels
    inverse = pseudo_inverse_flops(batch * shape.heads, count, options.iterations)
    return products + inverse + conv


def state_floats(shape: AttentionShape, options: NystromformerOptions) -> int:
    """Numbers a query needs: L_k and Z B V, m C each; keys and values if the softmax is exact."""
    held = shape.tokens if is_exact(shape.tokens, options) else options.landmarks
    return 2 * held * shape.channels


def order(_options: NystromformerOptions) -> float:
    """Exponent in tokens."""
    return 1.0


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map published names onto ours: lucidrains' (to_qkv), T2T's (qkv) and the language code's."""
    if "to_qkv.weight" in official:
        return adopt_projections(official, ("to_qkv",), "to_out.0", {"res_conv.weight": "conv"})
    if "qkv.weight" in official:
        return adopt_projections(official, ("qkv",), "proj", {"conv.weight": "conv"})
    return adopt_projections(official, ("W_q", "W_k", "W_v"), "ff", {"attn.conv.weight": "conv"})


SPEC = AttentionSpec(
    name="nystromformer",
    title="Nyströmformer",
    family="low_rank",
    paper=Paper(
        title="Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention",
        authors=(
            "Yunyang Xiong",
            "Zhanpeng Zeng",
            "Rudrasis Chakraborty",
            "Mingxing Tan",
            "Glenn Fung",
            "Yin Li",
            "Vikas Singh",
        ),
        year=2021,
        venue="AAAI",
        url="https://arxiv.org/abs/2102.03902",
        equation="Section 3: Nystrom approximation with landmarks and the iterative inverse",
        code=(
            "https://github.com/mlpen/Nystromformer/tree/56893131bf3fa99b5a2d3ab452a591dca722529a"
        ),
    ),
    revision=1,
    formula=(
        r"O = F Z (B V),\quad F = \mathrm{softmax}(Q L_k^\top/\sqrt d),\;"
        r" Z \approx \mathrm{softmax}(L_q L_k^\top/\sqrt d)^{+},\;"
        r" B = \mathrm{softmax}(L_q K^\top/\sqrt d)"
    ),
    deviations=(
        (
            "The authors' language code scales the start of the inverse by the largest column sum "
            "of the whole batch (`original`), which makes a sequence depend on its neighbours in "
            "the batch; their ImageNet code has `exact`, one a matrix, as its default, and so has "
            "this."
        ),
        (
            "The language code requires m to divide N; the ImageNet code uses segments of two "
            "lengths, shorter ones first (the default here); lucidrains' code puts zero tokens in "
            "front, which take part as keys (remainder='pad_left', in terms of q, k and v, so that "
            "it equals the published layer when the projections have no bias)."
        ),
        (
            "With no more tokens than landmarks the softmax is exact; the language code does this "
            "for N = m, the ImageNet code for no N, and lucidrains' never, nor does "
            "remainder='pad_left'."
        ),
        "F (Z (B V)) replaces (F Z)(B V): the same product, m^2 d instead of N m^2 operations.",
        (
            "The convolution of V runs along the token sequence, on an image along its rows and "
            "over their ends, as published; it is off by default as in the ImageNet code (33, 35 "
            "or 65 in the language models). That code's skip from V to the layer's output is not "
            "attention and not included."
        ),
        ("The published projections have no bias; qkv_bias=True adds one, as other variants have."),
        "A, its inverse and Z (B V) are computed in float32 for half-precision inputs.",
    ),
    scaling="The 64 landmarks stay 64 while their segments grow, so cost is linear in tokens.",
    options=NystromformerOptions(),
    make=make,
    core_flops=core_flops,
    order=order,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=True,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
