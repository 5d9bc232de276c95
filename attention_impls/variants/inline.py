"""InLine: injective linear attention, whose rows are centred instead of divided by their sum.

    O_i = sum_j w_ij v_j + R_i,    w_ij = (s / N) (phi(q_i) . phi(k_j) - phi(q_i) . k_mean) + 1 / N

q_i, k_j, v_j: query, key and value of one head, each of d numbers; N tokens; phi a feature map
(identity by default); k_mean the mean of phi(k_j) over j; s = 1 / sqrt(d). Rows sum to 1, weights
may be negative, nothing is divided. Summed over j this is the form computed here,

    O_i = v_mean + q_i^T S,    S = (s / N) sum_j phi(k_j) v_j^T - s k_mean v_mean^T,

s times the covariance of keys and values: linear in N, and the means cancel in S, once, instead of
in each of the N rows.

R is the local residual: a 3x3 depthwise convolution of the values on the grid whose kernels are
computed for each sample, R = conv(V, W_2 gelu(W_1 x_mean + b_1) + b_2), x_mean the mean of the
layer's input over all tokens, W_1 and W_2 block-diagonal over the heads.

Han, Pu, Xia, Han, Pan, Li, Lu, Song, Huang, "Bridging the Divide: Reconsidering Softmax and Linear
Attention", NeurIPS 2024, https://arxiv.org/abs/2412.06590, equation 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections, published_inputs
from attention_impls.parts.centred_attention import centred_product
from attention_impls.parts.local_convolution import (
    convolve_each_sample,
    local_convolution_flops,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]

KERNEL_SIDE = 3
"""Rows and columns of the local residual's kernels; fixed in paper and code."""


def unchanged(x: Heads) -> Heads:
    """Return x."""
    return x


def gentle_exp(x: Heads) -> Heads:
    """Return exp(0.2 x), the exponential feature map as the authors' code has it."""
    return (x * 0.2).exp_()


FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": unchanged,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "exp": gentle_exp,
}
"""What can be applied to queries and keys; leaky_relu has slope 0.01."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineOptions:
    """Options of InLine attention."""

    feature_map: Literal["identity", "relu", "leaky_relu", "exp"] = "identity"
    """Applied to queries and keys; leaky_relu has slope 0.01, exp is exp(0.2 x)."""
    local_residual: bool = True
    """Add R, the convolution of the values with kernels computed from the input."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.feature_map not in FEATURE_MAPS:
            allowed = ", ".join(FEATURE_MAPS)
            raise ValueError(f"feature_map is {self.feature_map!r}, must be one of {allowed}")


class HeadLinear(nn.Module):
    """A linear map for each head: [batch, heads * inputs] -> [batch, heads * outputs].

    Parameters: `weight` [heads * outputs, inputs] and `bias` [heads * outputs].
    """

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        """Initialise as torch does a linear map with as many inputs."""
        super().__init__()
        self.heads = heads
        made = nn.Linear(inputs, heads * outputs)
        self.weight = made.weight
        self.bias = made.bias

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """Apply each head's map to its own channels."""
        by_head = x.unflatten(1, (self.heads, -1)).transpose(0, 1)
        weight = self.weight.unflatten(0, (self.heads, -1)).mT
        out = torch.baddbmm(self.bias.view(self.heads, 1, -1), by_head, weight)
        return out.transpose(0, 1).flatten(1)


class InlineMix(nn.Module):
    """The formula of the module docstring. Parameters: those of `kernels`, if there is a residual.

    `kernels` computes, from the mean of the layer's input, nine weights for each channel.
    """

    def __init__(self, shape: AttentionShape, options: InlineOptions) -> None:
        """Build for the heads and channels of `shape`; its grid plays no part."""
        super().__init__()
        self.feature_map = FEATURE_MAPS[options.feature_map]
        heads, head_dim = shape.heads, shape.head_dim
        self.kernels = (
            nn.Sequential(
                HeadLinear(heads, head_dim, head_dim),
                nn.GELU(),
                HeadLinear(heads, head_dim, head_dim * KERNEL_SIDE**2),
            )
            if options.local_residual
            else None
        )

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:
        """Return O; extra tokens, which come first, have no local residual."""
        q, k = self.feature_map(q), self.feature_map(k)
        batch, tokens = v.shape[0], v.shape[2]
        out = centred_product(q, k, v)
        if self.kernels is not None:
            kernels = self.kernels(x.mean(1)).view(batch, -1, KERNEL_SIDE, KERNEL_SIDE)
            first = tokens - grid.tokens
            out[:, :, first:].add_(convolve_each_sample(v[:, :, first:], kernels, grid))
        return out


def make(shape: AttentionShape, options: InlineOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, InlineMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: InlineOptions) -> int:
    """4 B N C d, and with the local residual 18 B n C + 20 B C d.

    B batch, N tokens, n grid tokens, C channels, d head_dim. Keys times values and queries times
    that; then the convolution, and the two maps that compute its kernels (C to C, C to 9 C, by
    head). The outer product of the means is broadcast, not a contraction.
    """
    batch, channels, head_dim = shape.batch, shape.channels, shape.head_dim
    mixing = 4 * batch * shape.tokens * channels * head_dim
    if not options.local_residual:
        return mixing
    kernels = 2 * batch * channels * head_dim * (1 + KERNEL_SIDE**2)
    return mixing + kernels + local_convolution_flops(batch, shape.grid, channels, KERNEL_SIDE)


def state_floats(shape: AttentionShape, _options: InlineOptions) -> int:
    """C d + C: S and the mean of v, per head; the local residual's neighbourhood is not counted."""
    return shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `InLineAttention` of the DeiT, Swin (`qkv`) or PVT (`q`, `kv`) models."""
    residual = {
        f"residual.{layer}.{kind}": f"kernels.{layer}.{kind}"
        for layer in (0, 2)
        for kind in ("weight", "bias")
    }
    adopted = adopt_projections(official, published_inputs(official), "proj", residual)
    for layer in (0, 2):
        name = f"mix.kernels.{layer}.weight"
        if name in adopted:
            # published as a convolution over one position
            adopted[name] = adopted[name].squeeze(-1)
    return adopted


SPEC = AttentionSpec(
    name="inline",
    title="InLine",
    family="feature_map",
    paper=Paper(
        title="Bridging the Divide: Reconsidering Softmax and Linear Attention",
        authors=(
            "Dongchen Han",
            "Yifan Pu",
            "Zhuofan Xia",
            "Yizeng Han",
            "Xuran Pan",
            "Xiu Li",
            "Jiwen Lu",
            "Shiji Song",
            "Gao Huang",
        ),
        year=2024,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2412.06590",
        equation="equation 5",
        code="https://github.com/LeapLabTHU/InLine/tree/e463a6f4dbb95893726b294ff83f61a58644bf6e",
    ),
    revision=1,
    formula=r"O_i = \bar v + \phi(q_i)^\top \Bigl(\tfrac{s}{N} \sum_j \phi(k_j)\, v_j^\top"
    r" - s\, \bar k\, \bar v^\top\Bigr) + R_i, \quad s = 1/\sqrt{d}",
    deviations=(
        (
            "Scores are multiplied by s / N, as in the authors' code; the paper's equation leaves "
            "the factor to the feature map."
        ),
        (
            "The sum is arranged as v_mean + q^T S with centred S. The authors' code computes "
            "q^T (s / N) K^T V + (1 - s q^T k_mean) v_mean, which is equal in exact arithmetic and "
            "cancels in every row instead of once."
        ),
        (
            "The means over tokens, that of the layer's input included, take in the class token, "
            "and the local residual is added to grid tokens alone, as in the authors' DeiT model."
        ),
        (
            "The authors' code offers the feature maps in its Swin model alone; here all models "
            "have them. Released models use the identity."
        ),
        (
            "The authors' code takes the grid to be square, the root of the number of tokens; "
            "here the grid is given."
        ),
        (
            "In the authors' CSwin model the kernels come from the block's input before its "
            "normalisation; here they come from the layer's input, as in their other models."
        ),
    ),
    scaling="No option depends on the grid; the residual's kernels stay 3x3 while the grid grows.",
    options=InlineOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
