"""Simplified linear attention (SLAB): rectified features and a depthwise convolution of the values.

    O_i = sum_j (relu(q_i) . relu(k_j)) v_j / (sum_j relu(q_i) . relu(k_j) + epsilon) + L_i

q_i, k_j, v_j: query, key and value of one head, each of d numbers, a learned position encoding
added to k_j first; j runs over the N tokens. relu(q)^T (sum_j relu(k_j) v_j^T) is taken in this
order, so that the cost is linear in N. L is a depthwise convolution of the values on the grid (5x5)
whose filters the heads share. It is focused linear attention without the focusing power.

Guo, Chen, Tang, Wang, "SLAB: Efficient Transformers with Simplified Linear Attention and
Progressive Re-parameterized Batch Normalization", ICML 2024, https://arxiv.org/abs/2405.11582,
section 3.3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections, published_inputs
from attention_impls.parts.linear_attention import normalised_product, normalised_product_flops
from attention_impls.parts.local_convolution import convolve_heads, local_convolution_flops
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]

EPSILON = 1e-6
"""Added to the sum of the weights of a row, as in the authors' code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabOptions:
    """Options of simplified linear attention."""

    local_residual: bool = True
    """Add L, the depthwise convolution of the values."""
    local_size: int = 5
    """Rows and columns of the filters of L; odd."""
    position_encoding: bool = True
    """Add a learned number per key and channel to the keys; binds the layer to its grid."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.local_size < 1 or self.local_size % 2 == 0:
            raise ValueError(f"local_size is {self.local_size}, must be odd and >= 1")


class SlabMix(nn.Module):
    """The formula of the module docstring.

    Parameters, each only if its option is on: `positional_encoding` [1, tokens, channels], `dwc`
    (the filters of L).
    """

    def __init__(self, shape: AttentionShape, options: SlabOptions) -> None:
        """Build for `shape`; its grid binds the module if there is a position encoding."""
        super().__init__()
        self.bound_to = shape.grid if options.position_encoding else None
        self.positional_encoding = (
            nn.Parameter(torch.zeros(1, shape.tokens, shape.channels))
            if options.position_encoding
            else None
        )
        side, head_dim = options.local_size, shape.head_dim
        self.dwc = (
            nn.Conv2d(head_dim, head_dim, side, padding=side // 2, groups=head_dim)
            if options.local_residual
            else None
        )

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return O.

        Raises:
            UnsupportedShape: the position encoding belongs to another grid.
        """
        if self.bound_to is not None and grid != self.bound_to:
            raise UnsupportedShape(
                f"slab: grid is {grid}, must be {self.bound_to}, the one of its position encoding; "
                "build for this grid, or with position_encoding=False"
            )
        if self.positional_encoding is not None:
            position = self.positional_encoding.unflatten(2, (k.shape[1], k.shape[3]))
            k = k + position.transpose(1, 2)
        v = v.contiguous()
        out = normalised_product(F.relu(q), F.relu(k), v, EPSILON)
        if self.dwc is None:
            return out
        return out.add_(convolve_heads(v, self.dwc.weight, self.dwc.bias, grid))


def make(shape: AttentionShape, options: SlabOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, SlabMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: SlabOptions) -> int:
    """4 B N C d + 2 B N C, and with the local branch 2 B N C t^2.

    B batch, N tokens, C channels, d head_dim, t local_size: keys times values, queries times that,
    row sums; the convolution.
    """
    batch, channels = shape.batch, shape.channels
    mixing = normalised_product_flops(
        batch, shape.heads, shape.tokens, shape.head_dim, causal=False
    )
    if not options.local_residual:
        return mixing
    return mixing + local_convolution_flops(batch, shape.grid, channels, options.local_size)


def state_floats(shape: AttentionShape, _options: SlabOptions) -> int:
    """C d + C: the sum of k v^T and the sum of k, per head; the local branch is not counted."""
    return shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `SimplifiedLinearAttention` of Swin or DeiT (`qkv`), or PVT (`q`, `kv`)."""
    mix = {name: name for name in ("positional_encoding", "dwc.weight", "dwc.bias")}
    return adopt_projections(official, published_inputs(official), "proj", mix)


SPEC = AttentionSpec(
    name="slab",
    title="Simplified linear attention (SLAB)",
    family="feature_map",
    paper=Paper(
        title="SLAB: Efficient Transformers with Simplified Linear Attention and Progressive "
        "Re-parameterized Batch Normalization",
        authors=("Jialong Guo", "Xinghao Chen", "Yehui Tang", "Yunhe Wang"),
        year=2024,
        venue="ICML",
        url="https://arxiv.org/abs/2405.11582",
        equation="section 3.3, simplified linear attention",
        code="https://github.com/xinghaochen/SLAB/tree/"
        "f58db00b9db3959b5de03986f454aa5ff064279a/classification/models",
    ),
    revision=1,
    formula=r"O_i = \frac{\mathrm{relu}(q_i)^\top \sum_j \mathrm{relu}(k_j)\, v_j^\top}"
    r"{\mathrm{relu}(q_i)^\top \sum_j \mathrm{relu}(k_j) + \varepsilon}"
    r" + \mathrm{DWC}_{5 \times 5}(V)_i",
    deviations=(
        (
            "As in the authors' code and not in the paper: a position encoding on the keys, which "
            "position_encoding switches off."
        ),
        (
            "The mechanism alone: the paper's batch normalisation that replaces layer "
            "normalisation during training belongs to the block."
        ),
        (
            "On few tokens the authors' code multiplies in the quadratic order; here the order is "
            "always the linear one, the same function."
        ),
        (
            "Sums over tokens are taken as means, epsilon divided alike, and half precision "
            "divides in float32, where the authors' code computes the products in float32."
        ),
        (
            "Where no channel of a query is positive in a head, the row of weights is zero, not "
            "normalised: that head gives L alone."
        ),
        (
            "The authors' code takes the grid to be square, and their DeiT model 14x14; here the "
            "grid is given. Class tokens are refused, as their models have none in this layer."
        ),
        (
            "The authors' PVT class can shrink keys and values by a strided convolution; every "
            "released model keeps all of them, and this layer does."
        ),
    ),
    scaling="The position encoding has a number per token and channel and binds a layer to its "
    "grid; the convolution stays 5x5 while the grid grows.",
    options=SlabOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=False,
        extra_tokens=False,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
