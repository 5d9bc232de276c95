"""Spatial-reduction attention (PVT): keys and values from a map shrunk by a strided convolution.

    O = softmax(Q K^T / sqrt(d)) V,    Q = X W_q,    [K, V] = R(X) [W_k, W_v]
    R(X) = norm(patches(X) W_s)

X: the layer's input [N, C] on its grid; patches(X) [N / r^2, r^2 C]: the tokens of each r x r patch
side by side; W_s [r^2 C, C] learned; norm: layer normalisation; Q, K, V: queries, keys and values
of one head, of d numbers a token. The attention matrix is N x N / r^2.

Wang, Xie, Li, Fan, Song, Liang, Lu, Luo, Shao, "Pyramid Vision Transformer: A Versatile Backbone
for Dense Prediction without Convolutions", ICCV 2021, https://arxiv.org/abs/2102.12122, equations 1
to 4.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.parts.reduced_keys import (
    ReducedKeysAttention,
    adopt_reduced,
    reduced_projection_flops,
)
from attention_impls.parts.softmax_attention import softmax_attention_flops
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialReductionOptions:
    """Options of spatial-reduction attention."""

    reduction: int = 2
    """Side r of the patches that become one key and value; 1 keeps every token."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.reduction < 1:
            raise ValueError(f"reduction is {self.reduction}, must be >= 1")


class PatchReduction(nn.Module):
    """R. Parameters: `conv` (W_s and its bias), `norm`."""

    def __init__(self, channels: int, side: int) -> None:
        """Build for patches of `side` x `side` tokens; rows and columns left over are dropped."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, side, stride=side)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, maps: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch keys channels"]:
        """Return one token a patch.

        Raises:
            UnsupportedShape: the map is smaller than one patch.
        """
        if reasons := limits(Grid(*maps.shape[1:3]), self.conv.kernel_size[0]):
            raise UnsupportedShape(f"spatial_reduction: {reasons[0]}")
        return self.norm(self.conv(maps.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2))


def limits(grid: Grid, side: int) -> tuple[str, ...]:
    """A grid smaller than one patch has no keys."""
    if key_tokens(grid, side):
        return ()
    return (f"grid {grid} has no patch of {side}x{side} tokens: use a smaller reduction",)


def own_limits(shape: AttentionShape, options: SpatialReductionOptions) -> tuple[str, ...]:
    """Reasons of `limits`."""
    return limits(shape.grid, options.reduction)


def key_tokens(grid: Grid, side: int) -> int:
    """Keys that a query attends to: whole patches of the grid."""
    return (grid.height // side) * (grid.width // side)


def make(shape: AttentionShape, options: SpatialReductionOptions) -> nn.Module:
    """Build the layer."""
    side = options.reduction
    reduce = PatchReduction(shape.channels, side) if side > 1 else None
    return ReducedKeysAttention(shape, reduce, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: SpatialReductionOptions) -> int:
    """4 B N M C, and with r > 1 the reduction, 2 B M r^2 C^2.

    B batch, N tokens, M keys (floor(H / r) floor(W / r) on a grid of H x W), C channels.
    """
    batch, channels = shape.batch, shape.channels
    keys = key_tokens(shape.grid, options.reduction)
    attention = softmax_attention_flops(batch * shape.tokens, keys, channels)
    if options.reduction == 1:
        return attention
    return attention + 2 * batch * keys * options.reduction**2 * channels**2


def projection_flops(shape: AttentionShape, options: SpatialReductionOptions) -> int:
    """4 B N C^2 + 4 B M C^2."""
    keys = key_tokens(shape.grid, options.reduction)
    return reduced_projection_flops(shape.batch, shape.tokens, keys, shape.channels)


def state_floats(shape: AttentionShape, options: SpatialReductionOptions) -> int:
    """2 M C: the reduced keys and values."""
    return 2 * key_tokens(shape.grid, options.reduction) * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `Attention` of PVT or PVTv2 (not its linear form)."""
    maps = (("sr", "conv"), ("norm", "norm"))
    reduction = {
        f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in maps for kind in ("weight", "bias")
    }
    return adopt_reduced(official, reduction)


SPEC = AttentionSpec(
    name="spatial_reduction",
    title="Spatial reduction (PVT)",
    family="pooled",
    paper=Paper(
        title="Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without "
        "Convolutions",
        authors=(
            "Wenhai Wang",
            "Enze Xie",
            "Xiang Li",
            "Deng-Ping Fan",
            "Kaitao Song",
            "Ding Liang",
            "Tong Lu",
            "Ping Luo",
            "Ling Shao",
        ),
        year=2021,
        venue="ICCV",
        url="https://arxiv.org/abs/2102.12122",
        equation="equations 1 to 4",
        code="https://github.com/whai362/PVT/tree/57e2dfaa5a46f9050d76f306a4fcd9a7c061f520",
    ),
    revision=1,
    formula=r"O = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V, \quad"
    r" [K, V] = \mathrm{norm}(\mathrm{patches}_r(X)\, W_s)\, [W_k, W_v]",
    deviations=(
        (
            "The published reductions are 8, 4, 2 and 1 in the four stages of a model; the default "
            "is that of the third, whose patches are 16 pixels wide."
        ),
        ("Rows and columns that fill no patch are not seen by the keys, as in the authors' code."),
        (
            "Class tokens are refused: the published models have one in the last stage alone, "
            "where r is 1 and the mechanism is softmax attention."
        ),
        "Queries or keys are scaled, whichever are fewer; the authors' code scales the scores.",
    ),
    scaling="The reduction stays the same while the grid grows: cost remains quadratic in tokens, "
    "by a factor of r^2 below that of softmax attention.",
    options=SpatialReductionOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=projection_flops,
    order=lambda _options: 2.0,
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
