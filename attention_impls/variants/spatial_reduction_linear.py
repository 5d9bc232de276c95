"""Linear spatial-reduction attention (PVTv2-Li): keys and values from a map pooled to 7 x 7.

    O = softmax(Q K^T / sqrt(d)) V,    Q = X W_q,    [K, V] = R(X) [W_k, W_v]
    R(X) = gelu(norm(pool(X) W_s))

X: the layer's input [N, C] on its grid; pool(X) [p^2, C]: averages of X over p x p cells that cover
the grid; W_s [C, C] learned; norm: layer normalisation; Q, K, V: queries, keys and values of one
head, of d numbers a token. There are p^2 keys at any size: linear in N.

Wang, Xie, Li, Fan, Song, Liang, Lu, Luo, Shao, "PVT v2: Improved Baselines with Pyramid Vision
Transformer", Computational Visual Media 2022, https://arxiv.org/abs/2106.13797, section 3.2.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.parts.reduced_keys import (
    ReducedKeysAttention,
    adopt_reduced,
    reduced_projection_flops,
)
from attention_impls.parts.softmax_attention import softmax_attention_flops
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialReductionLinearOptions:
    """Options of linear spatial-reduction attention."""

    pooled_side: int = 7
    """Rows and columns p of the pooled map."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.pooled_side < 1:
            raise ValueError(f"pooled_side is {self.pooled_side}, must be >= 1")


class PooledReduction(nn.Module):
    """R. Parameters: `linear` (W_s and its bias), `norm`."""

    def __init__(self, channels: int, side: int) -> None:
        """Build for a pooled map of `side` x `side` tokens."""
        super().__init__()
        self.side = side
        self.linear = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, maps: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch keys channels"]:
        """Return one token a cell; on a smaller map, neighbouring cells share tokens."""
        pooled = F.adaptive_avg_pool2d(maps.permute(0, 3, 1, 2), self.side)
        return F.gelu(self.norm(self.linear(pooled.flatten(2).transpose(1, 2))))


def make(shape: AttentionShape, options: SpatialReductionLinearOptions) -> nn.Module:
    """Build the layer."""
    reduce = PooledReduction(shape.channels, options.pooled_side)
    return ReducedKeysAttention(shape, reduce, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: SpatialReductionLinearOptions) -> int:
    """4 B N p^2 C + 2 B p^2 C^2: attention to the p^2 keys, and the map W_s.

    B batch, N tokens, C channels.
    """
    batch, channels, keys = shape.batch, shape.channels, options.pooled_side**2
    attention = softmax_attention_flops(batch * shape.tokens, keys, channels)
    return attention + 2 * batch * keys * channels**2


def projection_flops(shape: AttentionShape, options: SpatialReductionLinearOptions) -> int:
    """4 B N C^2 + 4 B p^2 C^2."""
    keys = options.pooled_side**2
    return reduced_projection_flops(shape.batch, shape.tokens, keys, shape.channels)


def state_floats(shape: AttentionShape, options: SpatialReductionLinearOptions) -> int:
    """2 p^2 C: the pooled keys and values."""
    return 2 * options.pooled_side**2 * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `Attention(linear=True)` of PVTv2."""
    maps = (("sr", "linear"), ("norm", "norm"))
    reduction = {
        f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in maps for kind in ("weight", "bias")
    }
    adopted = adopt_reduced(official, reduction)
    if "reduce.linear.weight" in adopted:
        # published as a convolution over one position
        adopted["reduce.linear.weight"] = adopted["reduce.linear.weight"].flatten(1)
    return adopted


SPEC = AttentionSpec(
    name="spatial_reduction_linear",
    title="Linear spatial reduction (PVTv2)",
    family="pooled",
    paper=Paper(
        title="PVT v2: Improved Baselines with Pyramid Vision Transformer",
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
        year=2022,
        venue="Computational Visual Media",
        url="https://arxiv.org/abs/2106.13797",
        equation="section 3.2",
        code="https://github.com/whai362/PVT/tree/57e2dfaa5a46f9050d76f306a4fcd9a7c061f520",
    ),
    revision=1,
    formula=r"O = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V, \quad"
    r" [K, V] = \mathrm{gelu}(\mathrm{norm}(\mathrm{pool}_p(X)\, W_s))\, [W_k, W_v]",
    deviations=(
        (
            "The map W_s, the normalisation and the activation after the pooling are in the "
            "authors' code; the paper speaks of the pooling and a convolution."
        ),
        ("Class tokens are refused: the published models have none."),
        "Queries or keys are scaled, whichever are fewer; the authors' code scales the scores.",
    ),
    scaling="The pooled map stays 7x7 while the grid grows: cost is linear in tokens, and a key "
    "stands for an ever larger part of the image.",
    options=SpatialReductionLinearOptions(),
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
    adopt_official=adopt_official,
)
