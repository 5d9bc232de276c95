"""Separable attention (MobileViTv2): one number a token says how much it gives to one common sum.

    O = relu(V) * c,    c = sum_n softmax_n(i)_n k_n

i_n: the query of token n, one number; k_n, V: keys and values of all C channels, heads side by
side; n runs over the tokens of a group; * multiplies channel by channel, with the same c for every
token of the group. The grid is cut into patches of 2 x 2 tokens, and a group holds the tokens at
one place of all patches: those whose row and column leave the same remainders, 4 groups in all.
Linear in N; the heads of the layer play no part.

Mehta, Rastegari, "Separable Self-attention for Mobile Vision Transformers", TMLR 2023,
https://arxiv.org/abs/2206.02680, section 3.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections, merge_heads
from attention_impls.parts.channel_pooling import pooled_values
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Scalars = Float[Tensor, "batch one tokens query_dim"]
Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]
Cut = Float[Tensor, "batch rows row_places columns column_places width"]
Groups = Float[Tensor, "batch groups members width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparableOptions:
    """Options of separable attention."""

    patch_size: int = 2
    """Rows and columns of the patches whose places are groups; 1: all tokens are one group."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.patch_size < 1:
            raise ValueError(f"patch_size is {self.patch_size}, must be >= 1")


@dataclass(frozen=True, slots=True)
class Patches:
    """A grid cut into patches; the last of a row or column may reach over its end."""

    grid: Grid
    height: int
    """Rows of tokens in a patch."""
    width: int
    """Columns of tokens in a patch."""

    @property
    def rows(self) -> int:
        """Patches from top to bottom."""
        return math.ceil(self.grid.height / self.height)

    @property
    def columns(self) -> int:
        """Patches from left to right."""
        return math.ceil(self.grid.width / self.width)

    @property
    def covered(self) -> int:
        """Places of all patches, those over the end of the grid included."""
        return self.rows * self.height * self.columns * self.width

    def cut(self, x: Stream, filler: float) -> Cut:
        """[batch, tokens, width] -> [batch, rows, place, columns, place, width]."""
        over = (
            self.columns * self.width - self.grid.width,
            self.rows * self.height - self.grid.height,
        )
        x = x.unflatten(1, (self.grid.height, self.grid.width))
        if any(over):
            x = F.pad(x, (0, 0, 0, over[0], 0, over[1]), value=filler)
        return x.unflatten(2, (self.columns, self.width)).unflatten(1, (self.rows, self.height))

    def joined(self, cut: Cut) -> Stream:
        """Undo `cut`, without what lies over the end of the grid."""
        whole = cut.flatten(3, 4).flatten(1, 2)
        return whole[:, : self.grid.height, : self.grid.width].flatten(1, 2)


def patches_of(grid: Grid, size: int) -> Patches:
    """Cut `grid`; where it has fewer rows or columns than `size`, patches have as many."""
    return Patches(grid, min(size, grid.height), min(size, grid.width))


def groups_of(cut: Cut) -> Groups:
    """The tokens at each place of the patches, the places row by row."""
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)


class SeparableMix(nn.Module):
    """The formula of the module docstring; no parameters."""

    def __init__(self, options: SeparableOptions) -> None:
        """Build; the grid of a call says where its patches lie."""
        super().__init__()
        self.patch_size = options.patch_size

    def forward(self, q: Scalars, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return O from one number of q a token, which is all the layer has.

        Given q of several heads and channels, as every other mechanism takes them, the first
        channel of the first head is used.
        """
        size = v.shape[1], v.shape[3]
        patches = patches_of(grid, self.patch_size)
        scores = groups_of(patches.cut(q[:, 0, :, :1], float("-inf")))
        keys = groups_of(patches.cut(merge_heads(k), 0.0))
        context = pooled_values(scores, keys).to(v.dtype)
        context = context.flatten(2).unflatten(1, (1, patches.height, 1, patches.width))
        positive = patches.cut(F.relu(merge_heads(v)), 0.0)
        in_place = not (positive.requires_grad or context.requires_grad)
        gated = positive.mul_(context) if in_place else positive * context
        return patches.joined(gated).unflatten(2, size).transpose(1, 2)


class Separable(MultiHead):
    """The layer. Parameters: `qkv` (one number a token, then keys, values) and `out`."""

    def __init__(self, shape: AttentionShape, options: SeparableOptions) -> None:
        """Build for the channels of `shape`; its grid plays no part."""
        super().__init__(shape, SeparableMix(options), qkv_bias=options.qkv_bias)
        self.biased = options.qkv_bias
        width = 1 + 2 * shape.channels
        self.qkv = nn.Linear(shape.channels, width, bias=options.qkv_bias)

    def project(self, x: Stream) -> tuple[Scalars, Heads, Heads]:
        """Return q of one head and one channel, k and v."""
        # one product of 2 C + 1 columns takes a tenth longer than one of 2 C and one of 1
        weight, bias = self.qkv.weight, self.qkv.bias
        q, both = (
            F.linear(x, weight[rows], bias[rows] if self.biased else None)
            for rows in (slice(1), slice(1, None))
        )
        k, v = both.unflatten(2, (2, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        return q.unsqueeze(1), k, v


def core_flops(shape: AttentionShape, options: SeparableOptions) -> int:
    """2 B N C: one weighted sum of the keys; N rounded up to whole patches.

    B batch, N tokens, C channels. The product with the values is element by element.
    """
    covered = patches_of(shape.grid, options.patch_size).covered
    return 2 * shape.batch * covered * shape.channels


def projection_flops(shape: AttentionShape, _options: SeparableOptions) -> int:
    """2 B N C (3 C + 1): one number, keys and values, and out."""
    return 2 * shape.batch * shape.tokens * shape.channels * (3 * shape.channels + 1)


def state_floats(shape: AttentionShape, options: SeparableOptions) -> int:
    """C numbers a group: c."""
    patches = patches_of(shape.grid, options.patch_size)
    return shape.channels * patches.height * patches.width


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `LinearSelfAttention`; its convolutions over a position are linear maps."""
    maps = {
        f"{name}.block.conv.{kind}": f"{name}.{kind}"
        for name in ("qkv_proj", "out_proj")
        for kind in ("weight", "bias")
    }
    plain = {
        maps.get(name, name): tensor.flatten(1) if name.endswith("conv.weight") else tensor
        for name, tensor in official.items()
    }
    return adopt_projections(plain, ("qkv_proj",), "out_proj", {})


SPEC = AttentionSpec(
    name="separable",
    title="Separable attention (MobileViTv2)",
    family="pooled",
    paper=Paper(
        title="Separable Self-attention for Mobile Vision Transformers",
        authors=("Sachin Mehta", "Mohammad Rastegari"),
        year=2023,
        venue="TMLR",
        url="https://arxiv.org/abs/2206.02680",
        equation="section 3, separable self-attention",
        code="https://github.com/apple/ml-cvnets/blob/"
        "77717569ab4a852614dae01f010b32b820cb33bb/cvnets/layers/linear_attention.py",
    ),
    revision=1,
    formula=r"O = \mathrm{relu}(V) \odot \sum_n \mathrm{softmax}_n(i)_n\, k_n, \quad"
    r" n \text{ over the tokens at one place of all } 2 \times 2 \text{ patches}",
    deviations=(
        (
            "The authors' module takes a map that is already cut into patches; here the cutting, "
            "by MobileViTv2's 2x2, is part of the mix. patch_size=1 makes all tokens one group, "
            "as the paper's formula reads."
        ),
        (
            "Where the grid is no multiple of the patch, some groups have fewer tokens; the "
            "authors' block resizes its map to a multiple first. On a grid of height 1 patches "
            "are 1x2."
        ),
        (
            "There is one query number a token whatever the heads, as published. Given queries "
            "of full width at the level of the mix, the first channel of the first head is used."
        ),
        (
            "In half precision the softmax over tokens is computed in float32, and its weights "
            "are rounded N times as large and averaged."
        ),
        "Class tokens are refused: they have no place in a patch.",
    ),
    scaling="Patches stay 2x2 while the grid grows; the state is C numbers a group at every size.",
    options=SeparableOptions(),
    make=Separable,
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
