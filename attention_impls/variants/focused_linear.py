"""Focused linear attention: features sharpened by a power that keeps their norm.

    O_i = sum_j (f(q_i) . f(k_j)) v_j / (sum_j f(q_i) . f(k_j) + N epsilon) + L_i
    f(x) = a^p ||a|| / ||a^p||,    a = (relu(x) + 1e-6) / softplus(sigma)

q_i, k_j, v_j: query, key and value of one head, each of d numbers, a learned position encoding
added to k_j first; N keys; a^p the power of each element, p the focusing factor; sigma [C] learned;
both norms over all C channels of a token, heads together. f(q)^T (sum_j f(k_j) v_j^T) is taken in
this order, so that the cost is linear in N. L is a depthwise convolution of the values on the grid
whose filters the heads share.

With a reduction r > 1, keys and values come from a map that an r x r convolution of stride r has
shrunk, and L convolves the values after linear interpolation along the sequence to N tokens.

Han, Pan, Han, Song, Huang, "FLatten Transformer: Vision Transformer using Focused Linear
Attention", ICCV 2023, https://arxiv.org/abs/2308.00442, equations 4 to 8.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import (
    MultiHead,
    adopt_projections,
    merge_heads,
    published_inputs,
)
from attention_impls.parts.linear_attention import (
    key_value_mean,
    normalised_queries,
    token_mean,
)
from attention_impls.parts.local_convolution import convolve_heads, local_convolution_flops
from attention_impls.parts.reduced_multihead import (
    ReducedMultiHead,
    patch_count,
    reduced_projection_flops,
    reduction_limits,
    stretched,
)
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Queries = Float[Tensor, "batch heads tokens head_dim"]
Keys = Float[Tensor, "batch heads keys head_dim"]
PerChannel = Float[Tensor, "1 1 #channels"]
Stream = Float[Tensor, "batch tokens channels"]

EPSILON = 1e-6
"""Added to rectified features and to the denominator, as in the authors' code."""
LARGEST_PLAIN_POWER = 3
"""Above it, rows are divided by their largest element before the power is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FocusedLinearOptions:
    """Options of focused linear attention."""

    focusing_factor: int | float = 3
    """The power p."""
    local_residual: bool = True
    """Add L, the depthwise convolution of the values."""
    local_size: int = 5
    """Rows and columns of the filters of L; odd."""
    position_encoding: bool = True
    """Add a learned number per key and channel to the keys; binds the layer to its grid."""
    learned_scale: bool = True
    """Divide the features by softplus(sigma)."""
    reduction: int = 1
    """Side r of the patches that become one key and value; 1 keeps every token."""
    denominator: Literal["mean", "sum"] = "mean"
    """What epsilon is added to: the mean of f(q) . f(k) over the keys, or the sum."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if not self.focusing_factor > 0:
            raise ValueError(f"focusing_factor is {self.focusing_factor}, must be > 0")
        if self.local_size < 1 or self.local_size % 2 == 0:
            raise ValueError(f"local_size is {self.local_size}, must be odd and >= 1")
        if self.reduction < 1:
            raise ValueError(f"reduction is {self.reduction}, must be >= 1")
        if self.denominator not in ("mean", "sum"):
            raise ValueError(f"denominator is {self.denominator!r}, must be 'mean' or 'sum'")


class FocusedLinearMix(nn.Module):
    """The formula of the module docstring.

    Parameters, each only if its option is on: `scale` [1, 1, channels] (sigma),
    `positional_encoding` [1, keys, channels], `dwc` (the filters of L).
    """

    def __init__(self, shape: AttentionShape, options: FocusedLinearOptions) -> None:
        """Build for `shape`; its grid binds the module if there is a position encoding."""
        super().__init__()
        self.power = options.focusing_factor
        self.reduction = options.reduction
        self.mean_denominator = options.denominator == "mean"
        self.bound_to = shape.grid if options.position_encoding else None
        self.scale = (
            nn.Parameter(torch.zeros(1, 1, shape.channels)) if options.learned_scale else None
        )
        keys = patch_count(shape.grid, options.reduction)
        self.positional_encoding = (
            nn.Parameter(torch.zeros(1, keys, shape.channels))
            if options.position_encoding
            else None
        )
        side, head_dim = options.local_size, shape.head_dim
        self.dwc = (
            nn.Conv2d(head_dim, head_dim, side, padding=side // 2, groups=head_dim)
            if options.local_residual
            else None
        )

    def forward(self, q: Queries, k: Keys, v: Keys, x: Stream, grid: Grid) -> Queries:  # noqa: ARG002
        """Return O; with a reduction, k and v hold one token a patch.

        Raises:
            UnsupportedShape: the position encoding belongs to another grid, or k holds another
                number of tokens than the reduction leaves.
        """
        if self.bound_to is not None and grid != self.bound_to:
            raise UnsupportedShape(
                f"focused_linear: grid is {grid}, must be {self.bound_to}, the one of its position "
                "encoding; build for this grid, or with position_encoding=False"
            )
        keys = patch_count(grid, self.reduction)
        if k.shape[2] != keys:
            raise UnsupportedShape(
                f"focused_linear: {k.shape[2]} keys, grid {grid} with reduction {self.reduction} "
                f"needs {keys}: reduce the tokens before they become keys and values"
            )
        inverse = self.inverse_scale(v)
        floor = inverse * EPSILON
        v = v.contiguous()

        sharp_k, gain_k = self.focused(k, self.key_shift(inverse, floor), inverse, floor)
        sharp_k = sharp_k * gain_k
        sharp_k = split_heads(sharp_k, k)
        mean_k, state = token_mean(sharp_k).mT, key_value_mean(sharp_k.to(v.dtype), v)

        # the gain of a query multiplies numerator and denominator: it is left to epsilon alone
        sharp_q, gain_q = self.focused(q, floor, inverse, floor)
        epsilon = EPSILON if self.mean_denominator else EPSILON / keys
        added = (epsilon / gain_q).unsqueeze(1)
        out = normalised_queries(split_heads(sharp_q, q), mean_k, added, v.dtype) @ state
        if self.dwc is None:
            return out
        if keys != grid.tokens:
            v = stretched(v, grid.tokens)
        return out.add_(convolve_heads(v, self.dwc.weight, self.dwc.bias, grid))

    def inverse_scale(self, like: Tensor) -> PerChannel:
        """1 / softplus(sigma), or one where nothing is learned; float32 for half precision."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        if self.scale is None:
            return like.new_ones(1, 1, 1, dtype=dtype)
        return F.softplus(self.scale.to(dtype)).reciprocal()

    def key_shift(
        self, inverse: PerChannel, floor: PerChannel
    ) -> PerChannel | Float[Tensor, "1 keys channels"]:
        """Everything added to a key before it is rectified, in units of its features."""
        if self.positional_encoding is None:
            return floor
        return torch.addcmul(floor, self.positional_encoding, inverse)

    def focused(
        self, heads: Queries, shift: Tensor, inverse: PerChannel, floor: PerChannel
    ) -> tuple[Stream, Float[Tensor, "batch tokens 1"]]:
        """Return a^p and the number for each token that makes its norm that of a.

        (relu(x) + 1e-6) / softplus(sigma) is max(x inverse + shift, floor): two passes, not four.
        Half precision becomes float32: its powers and their gradients leave the range of float16.
        """
        x = merge_heads(heads).to(inverse.dtype)
        features = torch.addcmul(shift, x, inverse).clamp_(min=floor)
        norm = torch.linalg.vector_norm(features, dim=2, keepdim=True)
        if self.power > LARGEST_PLAIN_POWER:
            features = features / features.amax(2, keepdim=True)
        powers = features.pow(self.power)
        return powers, norm / torch.linalg.vector_norm(powers, dim=2, keepdim=True)


def split_heads(
    x: Float[Tensor, "batch some channels"], like: Keys
) -> Float[Tensor, "batch heads some head_dim"]:
    """[batch, tokens, channels] -> [batch, heads, tokens, head_dim], heads as in `like`."""
    return x.unflatten(2, (like.shape[1], like.shape[3])).transpose(1, 2)


def own_limits(shape: AttentionShape, options: FocusedLinearOptions) -> tuple[str, ...]:
    """A grid smaller than one patch of the reduction has no keys."""
    return reduction_limits(shape.grid, options.reduction)


def make(shape: AttentionShape, options: FocusedLinearOptions) -> MultiHead:
    """Build the layer."""
    mix = FocusedLinearMix(shape, options)
    if options.reduction == 1:
        return MultiHead(shape, mix, qkv_bias=options.qkv_bias)
    return ReducedMultiHead(shape, mix, qkv_bias=options.qkv_bias, side=options.reduction)


def core_flops(shape: AttentionShape, options: FocusedLinearOptions) -> int:
    """2 B M C d + 2 B N C d + 2 B N C, and with the local branch 2 B N C t^2.

    B batch, N tokens, M keys (N without reduction), C channels, d head_dim, t local_size: keys
    times values, queries times that, row sums; the convolution.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    keys = patch_count(shape.grid, options.reduction)
    mixing = 2 * batch * channels * ((tokens + keys) * shape.head_dim + tokens)
    if not options.local_residual:
        return mixing
    return mixing + local_convolution_flops(batch, shape.grid, channels, options.local_size)


def projection_flops(shape: AttentionShape, options: FocusedLinearOptions) -> int:
    """4 B N C^2 + 4 B M C^2, and with a reduction r the convolution, 2 B M C^2 r^2."""
    return reduced_projection_flops(shape, options.reduction)


def state_floats(shape: AttentionShape, _options: FocusedLinearOptions) -> int:
    """C d + C: the mean of f(k) v^T and of f(k), per head; the local branch is not counted."""
    return shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `FocusedLinearAttention` of the Swin (`qkv`), PVT or PVTv2 (`q`, `kv`) models."""
    kinds = ("weight", "bias")
    mix = {name: name for name in ("scale", "positional_encoding", "dwc.weight", "dwc.bias")}
    maps = (("sr", "reduce"), ("norm", "norm"))
    layer = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in maps for kind in kinds}
    inside = {name: value for name, value in official.items() if name not in layer}
    adopted = adopt_projections(inside, published_inputs(official), "proj", mix)
    return adopted | {
        ours: official[theirs] for theirs, ours in layer.items() if theirs in official
    }


SPEC = AttentionSpec(
    name="focused_linear",
    title="Focused linear attention",
    family="feature_map",
    paper=Paper(
        title="FLatten Transformer: Vision Transformer using Focused Linear Attention",
        authors=("Dongchen Han", "Xuran Pan", "Yizeng Han", "Shiji Song", "Gao Huang"),
        year=2023,
        venue="ICCV",
        url="https://arxiv.org/abs/2308.00442",
        equation="equations 4 to 8",
        code="https://github.com/LeapLabTHU/FLatten-Transformer/tree/"
        "abdb115f5406c0e1b6864aad7fe998a3f424ae76",
    ),
    revision=1,
    formula=r"O_i = \frac{f(q_i)^\top \sum_j f(k_j)\, v_j^\top}"
    r"{f(q_i)^\top \sum_j f(k_j) + N \varepsilon} + L_i, \quad"
    r" f(x) = \frac{\lVert a \rVert}{\lVert a^{p} \rVert}\, a^{p}, \quad"
    r" a = \frac{\mathrm{relu}(x) + \varepsilon}{\mathrm{softplus}(\sigma)}",
    deviations=(
        (
            "As in the authors' code and not in the paper: a position encoding on the keys, the "
            "learned scale sigma, epsilon, and norms over all channels of a token instead of those "
            "of a head. position_encoding and learned_scale switch the first two off."
        ),
        (
            "Since May 2024 the authors' code adds epsilon to the mean over keys (the default "
            "here); the published models were trained with the earlier code, which adds it to the "
            "sum: denominator='sum'."
        ),
        (
            "Rows are divided by their largest element before a power above 3, which changes "
            "nothing in exact arithmetic; the authors' code can overflow there. Its first version "
            "did the same for powers above 6."
        ),
        (
            "In half precision the features are computed in float32, as under the authors' "
            "automatic mixed precision, and rounded before the products with values and state."
        ),
        (
            "The authors' code takes the grid to be square for the local branch; here the grid is "
            "given, and a reduction drops rows and columns that fill no patch."
        ),
        "Class tokens are refused: the authors' DeiT model, which has them, was not published.",
        (
            "The pooled variant of PVTv2 (`linear=True`) and the additional 3x3 convolution of "
            "CSwin are not part of this layer."
        ),
    ),
    scaling="The position encoding has a number per token and channel and binds a layer to its "
    "grid; no other option depends on the grid.",
    options=FocusedLinearOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=projection_flops,
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
    own_limits=own_limits,
    adopt_official=adopt_official,
)
