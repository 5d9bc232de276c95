"""MILA (first called MLLA): linear attention in the block of a Mamba, positions in place of gates.

    y = W_out (A(u) * silu(W_gate x)),    u = silu(conv(W_in x))
    A(u)_i = sum_j (R_i phi(q_i) . R_j phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + N epsilon) + L_i

x: the layer's input [N, C]; conv: a 3x3 depthwise convolution on the grid; q, k linear maps of u,
split into heads of d channels; v = u, there is no map to values; phi(z) = elu(z) + 1; R_i: the
rotation of rotary positions, the pairs of the first half of all C channels by the row of token i,
those of the second half by its column; L: a 3x3 depthwise convolution of v. The state
sum_j R_j phi(k_j) v_j^T makes the cost linear in N; the weights of a row need not sum to one,
because the denominator is not rotated.

Han, Wang, Xia, Han, Pu, Ge, Song, Song, Zheng, Huang, "Demystify Mamba in Vision: A Linear
Attention Perspective", NeurIPS 2024, https://arxiv.org/abs/2405.16605.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import merge_heads, require_tokens
from attention_impls.parts.elu_features import positive_features
from attention_impls.parts.grid_rotation import channel_rotation_limits, rotation_across_heads
from attention_impls.parts.linear_attention import (
    key_value_mean,
    normalised_product_flops,
    normalised_queries,
    token_mean,
)
from attention_impls.parts.local_convolution import (
    channel_convolution,
    convolve_channels,
    local_convolution_flops,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]

EPSILON = 1e-6
"""Added to the mean of the unrotated weights of a row, as in the authors' code."""
LOCAL_SIZE = 3
"""Rows and columns of the filters of both convolutions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MilaOptions:
    """Options of MILA."""

    rotary: bool = True
    """Rotate the features of queries and keys by their place on the grid (R)."""
    local_residual: bool = True
    """Add L, the depthwise convolution of the values."""
    qkv_bias: bool = True
    """The map to queries and keys has a bias."""


class MilaMix(nn.Module):
    """A of the module docstring. Parameters: `local` (the filters of L), if its option is on."""

    def __init__(self, shape: AttentionShape, options: MilaOptions) -> None:
        """Build; other grids than that of `shape` work, too."""
        super().__init__()
        self.rotation = (
            rotation_across_heads(shape.grid, shape.heads, shape.head_dim)
            if options.rotary
            else None
        )
        self.local = (
            channel_convolution(shape.channels, LOCAL_SIZE) if options.local_residual else None
        )

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return A; `x` plays no part."""
        q, k = positive_features(q), positive_features(k)
        q = normalised_queries(q, token_mean(k).mT, EPSILON, q.dtype)
        if self.rotation is not None:
            q, k = self.rotation(q, grid), self.rotation(k, grid)
        out = q.to(v.dtype) @ key_value_mean(k.to(v.dtype), v)
        if self.local is None:
            return out
        return out.add_(convolve_channels(v, self.local.weight, self.local.bias, grid))


class Mila(nn.Module):
    """The layer.

    Parameters: `enter` (W_in), `convolution`, `gate` (W_gate), `qk`, `out` (W_out), and those of
    `mix`.
    """

    def __init__(self, shape: AttentionShape, options: MilaOptions) -> None:
        """Build for the channels of `shape`."""
        super().__init__()
        channels = shape.channels
        self.heads = shape.heads
        self.enter = nn.Linear(channels, channels)
        self.convolution = channel_convolution(channels, LOCAL_SIZE)
        self.gate = nn.Linear(channels, channels)
        self.qk = nn.Linear(channels, 2 * channels, bias=options.qkv_bias)
        self.mix = MilaMix(shape, options)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        require_tokens(x, grid, 0)
        q, k, v = self.project(x, grid)
        return self.out(merge_heads(self.mix(q, k, v, x, grid)) * F.silu(self.gate(x)))

    def project(self, x: Stream, grid: Grid) -> tuple[Heads, Heads, Heads]:
        """Return q, k and v = u."""
        image = self.enter(x).unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
        inner = F.silu(self.convolution(image)).flatten(2).mT
        q, k = self.qk(inner).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, inner.unflatten(2, (self.heads, -1)).transpose(1, 2)


def own_limits(shape: AttentionShape, options: MilaOptions) -> tuple[str, ...]:
    """Rotated pairs must fill the channels of a head, and rows and columns share the pairs."""
    if not options.rotary:
        return ()
    return channel_rotation_limits(shape.heads, shape.head_dim)


def make(shape: AttentionShape, options: MilaOptions) -> Mila:
    """Build the layer."""
    return Mila(shape, options)


def core_flops(shape: AttentionShape, options: MilaOptions) -> int:
    """4 B N C d + 2 B N C, and with the local branch 18 B N C.

    B batch, N tokens, C channels, d head_dim: keys times values, queries times that, row sums; the
    convolution. The rotation is no contraction.
    """
    batch, channels = shape.batch, shape.channels
    mixing = normalised_product_flops(
        batch, shape.heads, shape.tokens, shape.head_dim, causal=False
    )
    if not options.local_residual:
        return mixing
    return mixing + local_convolution_flops(batch, shape.grid, channels, LOCAL_SIZE)


def projection_flops(shape: AttentionShape, _options: MilaOptions) -> int:
    """10 B N C^2 + 18 B N C: maps to u, gate, q, k and out; the convolution before SiLU."""
    maps = 10 * shape.batch * shape.tokens * shape.channels**2
    return maps + local_convolution_flops(shape.batch, shape.grid, shape.channels, LOCAL_SIZE)


def state_floats(shape: AttentionShape, _options: MilaOptions) -> int:
    """C d + C: the mean of rotated k v^T and of k, per head; the local branch is not counted."""
    return shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map what belongs to the token mixer of one `MLLABlock`; its table of rotations is computed.

    The block's positional convolutions, norms and MLP are no part of it.
    """
    prefixes = {
        "in_proj": "enter",
        "dwc": "convolution",
        "act_proj": "gate",
        "attn.qk": "qk",
        "attn.lepe": "mix.local",
        "out_proj": "out",
    }
    places = {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in prefixes.items()
        for kind in ("weight", "bias")
    }
    if unknown := sorted(set(official) - set(places) - {"attn.rope.rotations"}):
        raise KeyError(f"no place for the published parameters {', '.join(unknown)}")
    optional = {"attn.qk.bias", "attn.lepe.weight", "attn.lepe.bias"}
    return {
        ours: official[theirs]
        for theirs, ours in places.items()
        if theirs in official or theirs not in optional
    }


SPEC = AttentionSpec(
    name="mila",
    title="MILA (Mamba-inspired linear attention)",
    family="feature_map",
    paper=Paper(
        title="Demystify Mamba in Vision: A Linear Attention Perspective",
        authors=(
            "Dongchen Han",
            "Ziyi Wang",
            "Zhuofan Xia",
            "Yizeng Han",
            "Yifan Pu",
            "Chunjiang Ge",
            "Jun Song",
            "Shiji Song",
            "Bo Zheng",
            "Gao Huang",
        ),
        year=2024,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2405.16605",
        equation="the section on the MILA model, its block and its linear attention",
        code="https://github.com/LeapLabTHU/MLLA/blob/"
        "66b6d297e5c93ef3f8821570daf41b71b6f7782f/models/mlla.py",
    ),
    revision=1,
    formula=r"A_i = \frac{(R_i \phi(q_i))^\top \sum_j R_j \phi(k_j)\, v_j^\top}"
    r"{\phi(q_i)^\top \sum_j \phi(k_j) + N \varepsilon} + \mathrm{DWC}_{3 \times 3}(V)_i, \quad"
    r" \phi(x) = \mathrm{elu}(x) + 1",
    deviations=(
        (
            "The layer is the token mixer of the block: the convolutions that add positions before "
            "and after it, the norms and the MLP belong to a network."
        ),
        (
            "As in the authors' code the rotation is laid over all channels before they are split "
            "into heads: with two heads or more, some turn with the row alone and others with the "
            "column alone."
        ),
        (
            "The authors' code keeps the rotations of one square resolution and rotates in "
            "float32; here the grid is given, any grid works, and float64 is rotated in float64."
        ),
        (
            "The queries are divided instead of the output, and sums over tokens are means: the "
            "same function. In half precision features, row sums and rotation are in float32."
        ),
    ),
    scaling="No option depends on the grid; the state keeps its size while the grid grows, and "
    "rotary positions reach places that were not seen in training.",
    options=MilaOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=projection_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=False,
        permutation_equivariant=False,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    own_limits=own_limits,
    adopt_official=adopt_official,
)
