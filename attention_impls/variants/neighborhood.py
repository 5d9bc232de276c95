"""Neighborhood attention (NAT, DiNAT): every token attends to the w x w tokens nearest to it.

    O_i = sum_j softmax_j(q_i . k_j / sqrt(d) + b(j - i)) v_j,    j in the neighbourhood of i

q_i, k_j, v_j: query, key and value of one head, each of d numbers, for the token i = (row, column);
b: a learned number for each head and each offset. The neighbourhood of i is the square of w x w
tokens around it; where that would reach over the border it is moved inside, so that all tokens have
w^2 keys. With a dilation s the grid falls into s x s grids of tokens s rows and columns apart, and
the above holds within each.

Hassani, Walton, Li, Li, Shi, "Neighborhood Attention Transformer", CVPR 2023,
https://arxiv.org/abs/2204.07143, section 3.1; with dilation: Hassani, Shi, "Dilated Neighborhood
Attention Transformer", 2022, https://arxiv.org/abs/2209.15001.

Computed here block by block: the queries of a block attend to all keys that any of them sees, those
of the others hidden.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.softmax_attention import SoftmaxAttention, softmax_attention_flops
from attention_impls.parts.windows import minus_infinity
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

BLOCK_SIDE = 7
"""Rows and columns of a block of queries; more compute more that is hidden, fewer copy keys more
often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborhoodOptions:
    """Options of neighborhood attention."""

    window: int = 7
    """Side w of a neighbourhood, odd; a grid shorter than that is seen whole."""
    dilation: int = 1
    """Distance s between neighbouring rows and columns of a neighbourhood."""
    position_bias: bool = True
    """Add the learned b to the scores."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.window < 3 or self.window % 2 == 0:
            raise ValueError(f"window is {self.window}, must be odd and >= 3")
        if self.dilation < 1:
            raise ValueError(f"dilation is {self.dilation}, must be >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One side of the grid, cut into blocks: how many there are, where they start, what they see.

    Tokens fall into `dilation` classes, all of `longest` places; the last place of some is empty.
    Blocks have equal size; where they do not divide a class, the last overlaps the one before.
    """

    length: int
    window: int
    dilation: int

    @property
    def longest(self) -> int:
        """Places of a class."""
        return math.ceil(self.length / self.dilation)

    @property
    def block(self) -> int:
        """Places of a block: enough that the moved neighbourhoods at the border stay in reach."""
        blocks = math.ceil(self.longest / max(BLOCK_SIDE, self.window // 2 + 2))
        return min(self.longest, max(math.ceil(self.longest / blocks), self.window // 2 + 2))

    @property
    def blocks(self) -> int:
        """Blocks of a class."""
        return math.ceil(self.longest / self.block)

    @property
    def reach(self) -> int:
        """Places beyond either end of a block whose keys it computes."""
        return self.window // 2 if self.blocks > 1 else 0

    @property
    def seen(self) -> int:
        """Keys of a block."""
        return self.block + 2 * self.reach

    @property
    def starts(self) -> tuple[int, ...]:
        """First place of each block."""
        return tuple(min(i * self.block, self.longest - self.block) for i in range(self.blocks))

    @property
    def regular(self) -> bool:
        """No blocks overlap."""
        return self.longest % self.block == 0

    @property
    def neighbours(self) -> int:
        """Keys along this side, added up over its tokens."""
        sizes = (self.class_size(number) for number in range(self.dilation))
        return sum(size * min(self.window, size) for size in sizes)

    def class_size(self, number: int) -> int:
        """Tokens of a class."""
        return max(0, math.ceil((self.length - number) / self.dilation))

    def visible(self) -> Bool[Tensor, "dilation_blocks block seen"]:
        """Whether a query of a block has a key in its neighbourhood, class by class."""
        start = torch.tensor(self.starts)
        query = start[:, None] + torch.arange(self.block)
        key = start[:, None] - self.reach + torch.arange(self.seen)
        found: list[Tensor] = []
        for number in range(self.dilation):
            size = max(1, self.class_size(number))
            first = (query - self.window // 2).clamp(0, max(size - self.window, 0)).unsqueeze(2)
            end = (first + self.window).clamp(max=size)
            found.append((key[:, None] >= first) & (key[:, None] < end))
        return torch.cat(found)

    def cut(self, x: Tensor, dim: int, reach: int) -> Tensor:
        """Replace axis `dim`, which has `reach` more places at both ends, by blocks and places."""
        size = self.block + 2 * reach
        if self.regular:
            return x.unfold(dim, size, self.block).movedim(-1, dim + 1)
        places = torch.tensor([start + i for start in self.starts for i in range(size)])
        return x.index_select(dim, places.to(x.device)).unflatten(dim, (self.blocks, size))

    def join(self, x: Tensor, dim: int) -> Tensor:
        """Undo `cut` on axes `dim` and `dim` + 1."""
        flat = x.flatten(dim, dim + 1)
        if self.regular:
            return flat
        kept = (self.blocks - 1) * self.block
        left = flat.narrow(dim, 0, kept)
        missing = self.longest - kept
        last = flat.narrow(dim, flat.shape[dim] - missing, missing)
        return torch.cat((left, last), dim)


class NeighborhoodMix(nn.Module):
    """The formula of the module docstring.

    Parameters: `position_bias` [heads, 2w - 1, 2w - 1], offsets from -(w - 1) to w - 1.
    """

    kept_mask: Tensor

    def __init__(self, shape: AttentionShape, options: NeighborhoodOptions) -> None:
        """Build for the heads of `shape`; the mask of its grid is kept, others are computed."""
        super().__init__()
        self.options = options
        self.attend = SoftmaxAttention()
        self.position_bias = None
        if options.position_bias:
            offsets = 2 * options.window - 1
            self.position_bias = nn.Parameter(torch.empty(shape.heads, offsets, offsets))
            nn.init.normal_(self.position_bias, std=0.02)
        self.grid = shape.grid
        self.register_buffer("kept_mask", mask_of(shape.grid, options), persistent=False)

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Return O; `x` plays no part."""
        rows, columns = axes(grid, self.options)
        queries = _blocks(q, grid, rows, columns, (0, 0))
        reach = (rows.reach, columns.reach)
        keys, values = (_blocks(t, grid, rows, columns, reach) for t in (k, v))
        out = self.attend(queries, keys, values, self.bias(grid, rows, columns, q))
        return _join(out, grid, rows, columns)

    def bias(
        self, grid: Grid, rows: Axis, columns: Axis, like: Tensor
    ) -> Float[Tensor, "windows #heads queries keys"]:
        """Everything added to the scores."""
        kept = self.kept_mask if grid == self.grid else mask_of(grid, self.options)
        mask = kept.to(like)
        if self.position_bias is None:
            return mask
        return offset_bias(self.position_bias, self.options.window, rows, columns) + mask


def axes(grid: Grid, options: NeighborhoodOptions) -> tuple[Axis, Axis]:
    """Rows and columns of `grid`."""
    return (
        Axis(length=grid.height, window=options.window, dilation=options.dilation),
        Axis(length=grid.width, window=options.window, dilation=options.dilation),
    )


def mask_of(grid: Grid, options: NeighborhoodOptions) -> Float[Tensor, "windows 1 queries keys"]:
    """Hides the keys of a block that are not in the neighbourhood of a query."""
    rows, columns = (axis.visible() for axis in axes(grid, options))
    both = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    mask = minus_infinity(~both, torch.zeros(()))
    return mask.flatten(4, 5).flatten(2, 3).flatten(0, 1).unsqueeze(1)


def offset_bias(
    table: Float[Tensor, "heads offsets offsets"], window: int, rows: Axis, columns: Axis
) -> Float[Tensor, "1 heads queries keys"]:
    """Look up b for every query and key of a block, by views alone; 0 for offsets it has not."""
    more = [axis.block + axis.reach - window for axis in (columns, rows) for _ in range(2)]
    used = F.pad(table, more)
    # heads, row and column of the query reversed, row and column of the key
    pairs = used.unfold(1, rows.seen, 1).unfold(2, columns.seen, 1).flip(1, 2)
    return pairs.flatten(3, 4).flatten(1, 2).unsqueeze(0)


def _blocks(
    heads: Heads, grid: Grid, rows: Axis, columns: Axis, reach: tuple[int, int]
) -> Float[Tensor, "batch windows heads block_tokens head_dim"]:
    """Cut tokens into blocks and what lies within `reach` of them, zeros beyond the border."""
    maps = heads.unflatten(2, (grid.height, grid.width))
    dilation = rows.dilation
    below = rows.longest * dilation - grid.height
    right = columns.longest * dilation - grid.width
    above, left = (places * dilation for places in reach)
    if above or left or below or right:
        maps = F.pad(maps, (0, 0, left, right + left, above, below + above))
    classes = maps.unflatten(3, (-1, dilation)).unflatten(2, (-1, dilation))
    cut = columns.cut(rows.cut(classes, 2, reach[0]), 5, reach[1])
    # batch, heads, row block, row, row class, column block, column, column class, head_dim
    blocks = cut.permute(0, 4, 2, 7, 5, 1, 3, 6, 8)
    return blocks.flatten(6, 7).flatten(1, 4)


def _join(
    blocks: Float[Tensor, "batch windows heads block_tokens head_dim"],
    grid: Grid,
    rows: Axis,
    columns: Axis,
) -> Heads:
    """Put the tokens of blocks back in their places."""
    dilation = rows.dilation
    split = blocks.unflatten(3, (rows.block, columns.block))
    split = split.unflatten(1, (dilation, rows.blocks, dilation, columns.blocks))
    # batch, row block, row, row class, column block, column, column class, heads, head_dim
    ordered = split.permute(0, 2, 6, 1, 4, 7, 3, 5, 8)
    joined = columns.join(rows.join(ordered, 1), 3)
    maps = joined.flatten(3, 4).flatten(1, 2)[:, : grid.height, : grid.width]
    return maps.flatten(1, 2).transpose(1, 2)


def make(shape: AttentionShape, options: NeighborhoodOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, NeighborhoodMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: NeighborhoodOptions) -> int:
    """4 B N w^2 C: scores and weighted values of each token's w^2 neighbours.

    B batch, N tokens, w window (as many rows or columns as there are, where there are fewer), C
    channels. What the blocks compute beyond that is not part of the mechanism.
    """
    rows, columns = axes(shape.grid, options)
    pairs = shape.batch * rows.neighbours * columns.neighbours
    return softmax_attention_flops(pairs, 1, shape.channels)


def uncounted(shape: AttentionShape, options: NeighborhoodOptions) -> tuple[int, str]:
    """Neighbours less everything that the blocks compute: a negative number."""
    rows, columns = axes(shape.grid, options)
    places = math.prod(axis.dilation * axis.blocks * axis.block for axis in (rows, columns))
    computed = softmax_attention_flops(
        shape.batch * places, rows.seen * columns.seen, shape.channels
    )
    why = (
        "counters see whole blocks of queries times all keys that any of them has; the formula "
        "counts each query's own neighbours, which is all that the mechanism needs"
    )
    return core_flops(shape, options) - computed, why


def state_floats(shape: AttentionShape, options: NeighborhoodOptions) -> int:
    """2 w^2 C: the keys and values of one neighbourhood."""
    sides = (min(options.window, axis.longest) for axis in axes(shape.grid, options))
    return 2 * math.prod(sides) * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `NeighborhoodAttention2D` of the NAT and DiNAT models."""
    return adopt_projections(official, ("qkv",), "proj", {"rpb": "position_bias"})


SPEC = AttentionSpec(
    name="neighborhood",
    title="Neighborhood (NAT)",
    family="local",
    paper=Paper(
        title="Neighborhood Attention Transformer",
        authors=("Ali Hassani", "Steven Walton", "Jiachen Li", "Shen Li", "Humphrey Shi"),
        year=2023,
        venue="CVPR",
        url="https://arxiv.org/abs/2204.07143",
        equation="section 3.1",
        code="https://github.com/SHI-Labs/Neighborhood-Attention-Transformer/tree/"
        "d334f5bb0bd73cad05e5aeaf7c14cce3876a9650",
    ),
    revision=1,
    formula=r"O_i = \sum_{j \in \rho_w(i)} \mathrm{softmax}_j"
    r"\left(\frac{q_i^\top k_j}{\sqrt{d}} + b_{j-i}\right) v_j",
    deviations=(
        (
            "The authors' models call their NATTEN library, which computes each query's "
            "neighbours in kernels of its own; here blocks of queries meet all keys that any of "
            "them sees, two to four times as many, the rest hidden."
        ),
        (
            "A grid, or with dilation a class of rows or columns, that is shorter than the window "
            "is seen whole. The authors' library refuses it, and their earlier module filled up "
            "with zeros, which then took part in the softmax."
        ),
        (
            "The position bias is that of the published models; today's module of the authors' "
            "library has none."
        ),
    ),
    scaling="The window stays 7x7 while the grid grows: cost is linear in tokens. A larger "
    "dilation widens the view at the same cost; the published models alternate between the two.",
    options=NeighborhoodOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=False,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    uncounted=uncounted,
    adopt_official=adopt_official,
)
