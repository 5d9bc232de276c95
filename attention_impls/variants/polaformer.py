"""PolaFormer: linear attention that keeps products of equal and of opposite signs apart.

    y = W_out (A * G),    A_i = [S_i(same), S_i(opposite)] + L_i
    S_i(same)     = sum_j a_ij v'_j / (sum_j a_ij + N epsilon),  a_ij = q+_i . k+_j + q-_i . k-_j
    S_i(opposite) = sum_j b_ij v"_j / (sum_j b_ij + N epsilon),  b_ij = q-_i . k+_j + q+_i . k-_j
    z+ = max(z / softplus(sigma), 0)^p,    z- = max(-z / softplus(sigma), 0)^p
    p = 1 + alpha sigmoid(pi)

q_i, k_j: query and key of one head, each of d numbers, a learned position encoding added to k_j
first; v'_j and v"_j: the halves of the value v_j; sigma and pi: learned, d numbers a head each; G:
a linear map of the layer's input, C numbers a token; N keys; L: a 5x5 depthwise convolution of the
values on the grid whose filters the heads share. Linear in N.

With a reduction r > 1, keys and values come from a map that an r x r convolution of stride r has
shrunk, and L convolves the values after linear interpolation along the sequence to N tokens.

Meng, Luo, Li, Jiang, Zhang, "PolaFormer: Polarity-aware Linear Attention for Vision Transformers",
ICLR 2025, https://arxiv.org/abs/2501.15061.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, merge_heads
from attention_impls.parts.gated_multihead import GatedMultiHead, adopt_gated
from attention_impls.parts.linear_attention import key_value_mean, token_mean
from attention_impls.parts.local_convolution import convolve_heads, local_convolution_flops
from attention_impls.parts.polarity import split_by_sign
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
Stream = Float[Tensor, "batch tokens channels"]

EPSILON = 1e-6
"""Added to the mean of the weights of a row, as in the authors' code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolaformerOptions:
    """Options of polarity-aware linear attention."""

    alpha: int | float = 4
    """How far above 1 the learned power can rise."""
    local_residual: bool = True
    """Add L, the depthwise convolution of the values."""
    local_size: int = 5
    """Rows and columns of the filters of L; odd."""
    position_encoding: bool = True
    """Add a learned number per key and channel to the keys; binds the layer to its grid."""
    reduction: int = 1
    """Side r of the patches that become one key and value; 1 keeps every token."""
    qkv_bias: bool = True
    """The maps to queries, keys, values and gate have a bias."""

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}, must be > 0")
        if self.local_size < 1 or self.local_size % 2 == 0:
            raise ValueError(f"local_size is {self.local_size}, must be odd and >= 1")
        if self.reduction < 1:
            raise ValueError(f"reduction is {self.reduction}, must be >= 1")


class PolaformerMix(nn.Module):
    """A of the module docstring.

    Parameters: `scale` [1, 1, channels] (sigma), `power` [1, heads, 1, head_dim] (pi), and each
    only if its option is on, `positional_encoding` [1, keys, channels], `dwc` (the filters of L).
    """

    def __init__(self, shape: AttentionShape, options: PolaformerOptions) -> None:
        """Build for `shape`; its grid binds the module if there is a position encoding."""
        super().__init__()
        self.alpha = options.alpha
        self.reduction = options.reduction
        self.bound_to = shape.grid if options.position_encoding else None
        self.scale = nn.Parameter(torch.zeros(1, 1, shape.channels))
        self.power = nn.Parameter(torch.zeros(1, shape.heads, 1, shape.head_dim))
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
        """Return A; with a reduction, k and v hold one token a patch.

        Raises:
            UnsupportedShape: the position encoding belongs to another grid, or k holds another
                number of tokens than the reduction leaves.
        """
        self.require(grid, k.shape[2])
        exact = torch.promote_types(v.dtype, torch.float32)
        inverse = F.softplus(self.by_head(self.scale, q).to(exact)).reciprocal()
        power = torch.sigmoid(self.power.to(exact)) * self.alpha + 1
        v = v.contiguous()
        scaled_q, scaled_k = q.to(exact).contiguous() * inverse, k.to(exact).contiguous() * inverse
        if self.positional_encoding is not None:
            scaled_k = scaled_k + self.by_head(self.positional_encoding, k).to(exact) * inverse
        out = polar_product(signed_power(scaled_q, power), signed_power(scaled_k, power), v)
        if self.dwc is None:
            return out
        if v.shape[2] != grid.tokens:
            v = stretched(v, grid.tokens)
        return out.add_(convolve_heads(v, self.dwc.weight, self.dwc.bias, grid))

    def by_head(
        self, of_channels: Float[Tensor, "1 places channels"], like: Keys
    ) -> Float[Tensor, "1 heads places head_dim"]:
        """Return numbers for each channel as numbers for each head."""
        return of_channels.unflatten(2, (like.shape[1], like.shape[3])).transpose(1, 2)

    def require(self, grid: Grid, keys: int) -> None:
        """Refuse a grid that the position encoding or the reduction does not fit."""
        if self.bound_to is not None and grid != self.bound_to:
            raise UnsupportedShape(
                f"polaformer: grid is {grid}, must be {self.bound_to}, the one of its position "
                "encoding; build for this grid, or with position_encoding=False"
            )
        needed = patch_count(grid, self.reduction)
        if keys != needed:
            raise UnsupportedShape(
                f"polaformer: {keys} keys, grid {grid} with reduction {self.reduction} needs "
                f"{needed}: reduce the tokens before they become keys and values"
            )


def signed_power(
    x: Keys, power: Float[Tensor, "1 heads 1 head_dim"]
) -> Float[Tensor, "batch heads keys features"]:
    """Return [max(x, 0)^power, max(-x, 0)^power] with one power a number, not two."""
    return split_by_sign(x.abs().pow(power) * x.sign())


def polar_product(
    q: Float[Tensor, "batch heads tokens features"],
    k: Float[Tensor, "batch heads keys features"],
    v: Keys,
) -> Queries:
    """Return [S(same), S(opposite)] for the features of both signs.

    Exchanging the signs of the queries is exchanging those of the state: the queries are kept once.
    """
    head_dim, mean_k = v.shape[3], token_mean(k)
    means = (mean_k, mean_k.roll(head_dim, 3))
    reciprocal = (q @ torch.cat(means, 2).mT).add_(EPSILON).reciprocal()
    if q.dtype == v.dtype:
        same, opposite = key_value_mean(k, v).chunk(2, 3)
        state = torch.cat((same, opposite.roll(head_dim, 2)), 3)
        return ((q @ state).unflatten(3, (2, -1)) * reciprocal.unsqueeze(4)).flatten(3)
    # a power may be more than half precision can hold: each feature of the keys becomes one in the
    # mean, and what is left of the queries lies between zero and one
    unit = k / mean_k.clamp_min(torch.finfo(k.dtype).tiny)
    same, opposite = key_value_mean(unit.to(v.dtype), v).chunk(2, 3)
    halves = zip(means, reciprocal.split(1, 3), (same, opposite.roll(head_dim, 2)), strict=True)
    return torch.cat(
        [(q * mean * inverse).to(v.dtype) @ state for mean, inverse, state in halves], 3
    )


class ReducedGatedMultiHead(ReducedMultiHead):
    """Parameters: those of ReducedMultiHead, and `gate`."""

    def __init__(self, shape: AttentionShape, mix: nn.Module, *, qkv_bias: bool, side: int) -> None:
        """Build for patches of `side` x `side` tokens."""
        super().__init__(shape, mix, qkv_bias=qkv_bias, side=side)
        self.gate = nn.Linear(shape.channels, shape.channels, bias=qkv_bias)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        q, k, v = self.project_reduced(x, grid)
        return self.out(merge_heads(self.mix(q, k, v, x, grid)) * self.gate(x))


def own_limits(shape: AttentionShape, options: PolaformerOptions) -> tuple[str, ...]:
    """Values are halved, and a reduction needs a patch to leave."""
    reasons = reduction_limits(shape.grid, options.reduction)
    if shape.head_dim % 2:
        return (*reasons, f"head_dim is {shape.head_dim}, must be even: values are halved")
    return reasons


def make(shape: AttentionShape, options: PolaformerOptions) -> MultiHead:
    """Build the layer."""
    mix = PolaformerMix(shape, options)
    if options.reduction == 1:
        return GatedMultiHead(shape, mix, qkv_bias=options.qkv_bias)
    return ReducedGatedMultiHead(shape, mix, qkv_bias=options.qkv_bias, side=options.reduction)


def core_flops(shape: AttentionShape, options: PolaformerOptions) -> int:
    """4 B M C d + 4 B N C d + 8 B N C, and with the local branch 2 B N C t^2.

    B batch, N tokens, M keys (N without reduction), C channels, d head_dim, t local_size; 2 d
    features: keys times values, queries times that, row sums of both signs; the convolution.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    keys = patch_count(shape.grid, options.reduction)
    mixing = 4 * batch * channels * ((tokens + keys) * shape.head_dim + 2 * tokens)
    if not options.local_residual:
        return mixing
    return mixing + local_convolution_flops(batch, shape.grid, channels, options.local_size)


def projection_flops(shape: AttentionShape, options: PolaformerOptions) -> int:
    """6 B N C^2 + 4 B M C^2: q, gate and out, k and v; with a reduction r its 2 B M C^2 r^2."""
    gate = 2 * shape.batch * shape.tokens * shape.channels**2
    return gate + reduced_projection_flops(shape, options.reduction)


def state_floats(shape: AttentionShape, _options: PolaformerOptions) -> int:
    """2 C d + 2 C: the means of k v^T and of k for both signs; the local branch is not counted."""
    return 2 * shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `PolaLinearAttention` of the Swin (`qkvg`) or PVT (`qg`, `kv`) models."""
    filled = dict(official)
    if "qg.weight" in official:
        for kind in ("weight", "bias"):
            if f"qg.{kind}" in official:
                q, gate = filled.pop(f"qg.{kind}").tensor_split(2)
                filled[f"qkvg.{kind}"] = torch.cat((q, filled.pop(f"kv.{kind}"), gate))
    names = ("scale", "power", "positional_encoding", "dwc.weight", "dwc.bias")
    others = {name: f"mix.{name}" for name in names}
    for theirs, ours in (("sr", "reduce"), ("norm", "norm")):
        others |= {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}
    return adopt_gated(filled, "qkvg", "proj", others)


SPEC = AttentionSpec(
    name="polaformer",
    title="Polarity-aware linear attention (PolaFormer)",
    family="feature_map",
    paper=Paper(
        title="PolaFormer: Polarity-aware Linear Attention for Vision Transformers",
        authors=("Weikang Meng", "Yadan Luo", "Xin Li", "Dongmei Jiang", "Zheng Zhang"),
        year=2025,
        venue="ICLR",
        url="https://arxiv.org/abs/2501.15061",
        equation="the section on polarity-aware attention and its learnable power function",
        code="https://github.com/ZacharyMeng/PolaFormer/tree/"
        "44cdd39e2f6c2a409ab1c16a9b836f08f22cfc79/models",
    ),
    revision=1,
    formula=r"A_i = \left[\frac{\sum_j (q_i^{+} k_j^{+} + q_i^{-} k_j^{-})\, v'_j}"
    r"{\sum_j (q_i^{+} k_j^{+} + q_i^{-} k_j^{-}) + N \varepsilon},"
    r" \frac{\sum_j (q_i^{-} k_j^{+} + q_i^{+} k_j^{-})\, v''_j}"
    r"{\sum_j (q_i^{-} k_j^{+} + q_i^{+} k_j^{-}) + N \varepsilon}\right]"
    r" + \mathrm{DWC}_{5 \times 5}(V)_i, \quad y_i = W (A_i \odot G_i)",
    deviations=(
        (
            "The paper's two learned coefficient matrices, for equal and for opposite signs, are "
            "one gate in the authors' code, followed here: a linear map of the input, without "
            "activation, over the channels of both halves."
        ),
        (
            "As in the authors' code and not in the paper: a position encoding on the keys, the "
            "learned scale sigma and epsilon; the first is switched off by position_encoding."
        ),
        (
            "One power is computed for both signs, and the queries are not copied with their signs "
            "exchanged: the halves of the state are. The same function."
        ),
        (
            "In half precision powers and row sums are computed in float32, each feature of the "
            "keys is divided by its mean and that of the queries multiplied by it, and the queries "
            "are divided instead of the output: the same function, within the range of float16."
        ),
        (
            "The authors' code takes the grid to be square for the local branch; here the grid is "
            "given, and a reduction drops rows and columns that fill no patch."
        ),
        "Class tokens are refused: the authors published no model that has them.",
    ),
    scaling="The position encoding has a number per token and channel and binds a layer to its "
    "grid; no other option depends on the grid.",
    options=PolaformerOptions(),
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
