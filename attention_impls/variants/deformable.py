"""Deformable attention (DAT): keys and values sampled at places that the queries shift.

    O = softmax(Q K^T / sqrt(d) + B) V,    Q = X W_q,    [K, V] = X(p) [W_k, W_v]
    p = clip(p_0 + f(Q)),    B_is = b(i - p_s)

X: the layer's input [N, C] on its grid; p_0: M reference points, one for each s x s tokens; f: a
depthwise convolution of stride s, layer normalisation, gelu and a map to two numbers, that gives an
offset for each point; X(p): bilinear interpolation of X at p; b: a learned table of numbers for
each head and each offset in rows and columns, interpolated too. Heads fall into groups; each group
has its own points, and samples its own channels of X. Q, K, V: queries, keys and values of one
head, of d numbers each.

Xia, Pan, Song, Li, Huang, "Vision Transformer with Deformable Attention", CVPR 2022,
https://arxiv.org/abs/2201.00520, equations 4 to 8; settings of "DAT++: Spatially Dynamic Vision
Transformer with Deformable Attention", 2023, https://arxiv.org/abs/2309.01430.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.parts.reduced_keys import reduced_projection_flops
from attention_impls.parts.softmax_attention import softmax_attention_flops
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Stream = Float[Tensor, "batch tokens channels"]
Points = Float[Tensor, "batch groups points"]
Rows = Int[Tensor, "batch groups points"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeformableOptions:
    """Options of deformable attention."""

    stride: int = 2
    """Rows and columns s between reference points."""
    offset_size: int = 5
    """Rows and columns of the filters that see the queries around a reference point."""
    group_heads: int = 2
    """Heads that share their points: the largest number that divides both this and all heads."""
    offset_range: int | float | None = None
    """Offsets are tanh(f) times this, in units of the distance between points; None: f itself, and
    points are kept on the grid."""
    position_bias: bool = True
    """Add B to the scores; binds the layer to its grid."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        for name in ("stride", "offset_size", "group_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be >= 1")
        if self.offset_range is not None and not self.offset_range > 0:
            raise ValueError(f"offset_range is {self.offset_range}, must be > 0 or None")

    @property
    def padding(self) -> int:
        """Zeros around the queries: none where the filters tile the grid."""
        return self.offset_size // 2 if self.offset_size != self.stride else 0


class DeformableAttention(nn.Module):
    """The layer.

    Parameters: `qkv` and `out` as in every layer; `offset_conv`, `offset_norm`, `offset_out` (f),
    shared by the groups; `position_bias` [heads, 2H - 1, 2W - 1] (b) for a grid of H x W.
    """

    def __init__(self, shape: AttentionShape, options: DeformableOptions) -> None:
        """Build for `shape`; its grid binds the layer if there is a position bias."""
        super().__init__()
        self.options = options
        self.heads, self.head_dim = shape.heads, shape.head_dim
        self.groups = shape.heads // math.gcd(shape.heads, options.group_heads)
        width = shape.channels // self.groups
        self.qkv = nn.Linear(shape.channels, 3 * shape.channels, bias=options.qkv_bias)
        self.offset_conv = nn.Conv2d(width, width, options.offset_size, groups=width)
        self.offset_norm = nn.LayerNorm(width)
        self.offset_out = nn.Linear(width, 2, bias=False)
        self.out = nn.Linear(shape.channels, shape.channels)
        self.bound_to = shape.grid if options.position_bias else None
        self.position_bias = None
        if options.position_bias:
            sides = (2 * shape.grid.height - 1, 2 * shape.grid.width - 1)
            self.position_bias = nn.Parameter(torch.empty(shape.heads, *sides))
            nn.init.normal_(self.position_bias, std=0.01)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend.

        Raises:
            UnsupportedShape: `x` does not hold the tokens of `grid`, the position bias belongs to
                another grid, or the grid has too few reference points.
        """
        self._check(x, grid)
        batch, tokens, channels = x.shape
        weight, bias = self.qkv.weight, cast("Tensor | None", self.qkv.bias)
        q = F.linear(x, weight[:channels], None if bias is None else bias[:channels])
        rows, columns = self.places(q, grid)
        sampled = interpolated(x, grid, rows, columns)
        kv = F.linear(sampled, weight[channels:], None if bias is None else bias[channels:])
        q = q.unflatten(2, (self.heads, self.head_dim)).transpose(1, 2).flatten(0, 1)
        kv = kv.unflatten(2, (2, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).flatten(1, 2)
        added, beta = q.new_zeros(()), 0
        if self.position_bias is not None:
            added, beta = self.bias(self.position_bias, grid, rows, columns).to(q.dtype), 1
        # keys in rows: B comes out that way, and a softmax over columns costs no more
        scores = torch.baddbmm(added, kv[0], q.mT, beta=beta, alpha=self.head_dim**-0.5)
        accumulator = torch.promote_types(q.dtype, torch.float32)
        weights = scores.softmax(1, dtype=accumulator).to(q.dtype)
        mixed = torch.bmm(weights.mT, kv[1]).view(batch, self.heads, tokens, self.head_dim)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def places(self, q: Stream, grid: Grid) -> tuple[Points, Points]:
        """Return rows and columns p, in units of tokens; float32 for half precision."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        image = q.to(dtype).unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
        conv, groups = self.offset_conv, self.groups
        seen = F.conv2d(
            image,
            conv.weight.to(dtype).repeat(groups, 1, 1, 1),
            None if conv.bias is None else conv.bias.to(dtype).repeat(groups),
            stride=self.options.stride,
            padding=self.options.padding,
            groups=image.shape[1],
        )
        down, across = seen.shape[2:]
        norm = self.offset_norm
        seen = F.layer_norm(
            seen.permute(0, 2, 3, 1).unflatten(3, (groups, -1)),
            norm.normalized_shape,
            norm.weight.to(dtype),
            norm.bias.to(dtype),
            norm.eps,
        )
        offsets = F.linear(F.gelu(seen), self.offset_out.weight.to(dtype))
        by_group = offsets.permute(4, 0, 3, 1, 2)
        rows = self._along(by_group[0], down, grid.height, 2)
        columns = self._along(by_group[1], across, grid.width, 3)
        return rows.flatten(2), columns.flatten(2)

    def _along(self, offsets: Tensor, count: int, length: int, dim: int) -> Tensor:
        """Reference points plus offsets along one side, -1 .. 1 being its ends; then in tokens."""
        points = torch.arange(count, dtype=offsets.dtype, device=offsets.device)
        reference = (points + 0.5) * (2 / (count - 1)) - 1
        reference = reference.view([-1 if axis == dim else 1 for axis in range(4)])
        limit = self.options.offset_range
        if limit is None:
            place = (offsets + reference).clamp(-1, 1)
        else:
            place = offsets.tanh() * (limit / (count - 1)) + reference
        return (place + 1) * ((length - 1) / 2)

    def bias(
        self, table: Tensor, grid: Grid, rows: Points, columns: Points
    ) -> Float[Tensor, "batch_heads points tokens"]:
        """Return B, points in rows.

        The offset of a token from a point is the token's place less a number of the point's own, so
        that its tokens need one rectangle of the table, shifted by less than a token.
        """
        counts = point_counts(grid, self.options)
        beyond = [
            _beyond(length, count, self.options.offset_range)
            for length, count in zip((grid.height, grid.width), counts, strict=True)
        ]
        dtype = rows.dtype
        table = F.pad(table.to(dtype), (beyond[1], beyond[1], beyond[0], beyond[0]))
        above, row_part = _split(grid.height - 1 + beyond[0] - rows, table.shape[1] - grid.height)
        left, column_part = _split(
            grid.width - 1 + beyond[1] - columns, table.shape[2] - grid.width
        )
        # every stretch of one token more than the grid is wide, as a row of its own
        stretches = table.unfold(2, grid.width + 1, 1)
        heads, height, starts, width = stretches.shape
        share = self.heads // self.groups
        above, left = (t.repeat_interleave(share, 1).unsqueeze(3) for t in (above, left))
        head = torch.arange(heads, device=table.device).view(-1, 1, 1)
        line = torch.arange(grid.height + 1, device=table.device)
        index = (head * height + above + line) * starts + left
        found = stretches.reshape(-1, width).index_select(0, index.flatten())
        found = found.view(-1, share, rows.shape[2], grid.height + 1, width)
        row_part, column_part = (
            t.flatten(0, 1)[:, None, :, None, None] for t in (row_part, column_part)
        )
        found = torch.lerp(found[:, :, :, :-1], found[:, :, :, 1:], row_part)
        found = torch.lerp(found[..., :-1], found[..., 1:], column_part)
        return found.flatten(3, 4).flatten(0, 1)

    def _check(self, x: Stream, grid: Grid) -> None:
        if x.shape[1] != grid.tokens:
            raise UnsupportedShape(
                f"x has {x.shape[1]} tokens, grid {grid} needs {grid.tokens}; "
                "pass the grid of this call"
            )
        if self.bound_to is not None and grid != self.bound_to:
            raise UnsupportedShape(
                f"deformable: grid is {grid}, must be {self.bound_to}, the one of its position "
                "bias; build for this grid, or with position_bias=False"
            )
        if reasons := limits(grid, self.options):
            raise UnsupportedShape(f"deformable: {reasons[0]}")


def interpolated(
    x: Stream, grid: Grid, rows: Points, columns: Points
) -> Float[Tensor, "batch points channels"]:
    """Return x at the points of each group, that group's channels each; 0 beyond the border."""
    batch, groups, points = rows.shape
    tokens = x.reshape(batch * grid.tokens * groups, -1)
    item = torch.arange(batch, device=x.device).view(-1, 1, 1)
    group = torch.arange(groups, device=x.device).view(-1, 1)
    total: Tensor | None = None
    for row, row_weight in _corners(rows, grid.height):
        for column, column_weight in _corners(columns, grid.width):
            index = ((item * grid.height + row) * grid.width + column) * groups + group
            found = tokens.index_select(0, index.flatten()).view(batch, groups, points, -1)
            weighted = found * (row_weight * column_weight).unsqueeze(3)
            total = weighted if total is None else total + weighted
    if total is None:
        raise TypeError("interpolation had no corners")
    return total.to(x.dtype).transpose(1, 2).flatten(2)


def _corners(places: Points, length: int) -> tuple[tuple[Rows, Points], tuple[Rows, Points]]:
    """The two lines between which each place lies, and their weights; 0 for lines off the grid."""
    low = places.detach().floor()
    part = places - low
    ends = ((low, 1 - part), (low + 1, part))
    first, second = (
        (line.clamp(0, length - 1).long(), weight * ((line >= 0) & (line < length)))
        for line, weight in ends
    )
    return first, second


def _split(places: Points, most: int) -> tuple[Rows, Points]:
    """Whole part, at most `most` - 1, and the rest, from 0 to 1."""
    whole = places.detach().floor().clamp(0, most - 1)
    return whole.long(), places - whole


def _beyond(length: int, count: int, offset_range: int | float | None) -> int:
    """Tokens that a point can lie beyond the grid, rounded up; none where points are kept on it."""
    if offset_range is None:
        return 0
    return math.ceil(max(0.0, (length - 1) * (offset_range + 1) / 2 / (count - 1)))


def point_counts(grid: Grid, options: DeformableOptions) -> tuple[int, int]:
    """Rows and columns of reference points; 0 or less where the filters do not fit."""
    around = 2 * options.padding - options.offset_size
    return (
        (grid.height + around) // options.stride + 1,
        (grid.width + around) // options.stride + 1,
    )


def limits(grid: Grid, options: DeformableOptions) -> tuple[str, ...]:
    """Offsets are measured in distances between reference points: two are needed on each side."""
    down, across = point_counts(grid, options)
    if min(down, across) >= 2:
        return ()
    points = f"{max(down, 0)}x{max(across, 0)} reference points"
    return (f"grid {grid} has {points}, needs 2x2: use a larger grid or a smaller stride",)


def own_limits(shape: AttentionShape, options: DeformableOptions) -> tuple[str, ...]:
    """Reasons of `limits`."""
    return limits(shape.grid, options)


def make(shape: AttentionShape, options: DeformableOptions) -> DeformableAttention:
    """Build the layer."""
    return DeformableAttention(shape, options)


def core_flops(shape: AttentionShape, options: DeformableOptions) -> int:
    """4 B N M C + 2 B M C k^2 + 4 B M C: attention, and the two maps of the offsets.

    B batch, N tokens, M reference points (N / s^2), C channels, k offset_size. Interpolation is
    elementwise.
    """
    batch, channels = shape.batch, shape.channels
    points = math.prod(point_counts(shape.grid, options))
    attention = softmax_attention_flops(batch * shape.tokens, points, channels)
    return attention + 2 * batch * points * channels * (options.offset_size**2 + 2)


def projection_flops(shape: AttentionShape, options: DeformableOptions) -> int:
    """4 B N C^2 + 4 B M C^2."""
    points = math.prod(point_counts(shape.grid, options))
    return reduced_projection_flops(shape.batch, shape.tokens, points, shape.channels)


def state_floats(shape: AttentionShape, options: DeformableOptions) -> int:
    """2 M C: sampled keys and values; their places are not counted."""
    return 2 * math.prod(point_counts(shape.grid, options)) * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `DAttentionBaseline` with a position table; its maps are 1x1 convolutions.

    Raises:
        KeyError: a map is missing, or a parameter has no place here.
    """
    learned = dict(official)
    adopted: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        streams = [learned.pop(f"proj_{stream}.{kind}") for stream in "qkv"]
        adopted[f"qkv.{kind}"] = torch.cat(streams)
    names = {
        "conv_offset.0": "offset_conv",
        "conv_offset.1.norm": "offset_norm",
        "conv_offset.3": "offset_out",
        "proj_out": "out",
    }
    for theirs, ours in names.items():
        for kind in ("weight", "bias"):
            if (name := f"{theirs}.{kind}") in learned:
                adopted[f"{ours}.{kind}"] = learned.pop(name)
    if "rpe_table" in learned:
        adopted["position_bias"] = learned.pop("rpe_table")
    if learned:
        raise KeyError(f"no place for the published parameters {', '.join(sorted(learned))}")
    for name in ("qkv.weight", "offset_out.weight", "out.weight"):
        if name in adopted:
            adopted[name] = adopted[name].flatten(1)
    return adopted


SPEC = AttentionSpec(
    name="deformable",
    title="Deformable (DAT)",
    family="sparse",
    paper=Paper(
        title="Vision Transformer with Deformable Attention",
        authors=("Zhuofan Xia", "Xuran Pan", "Shiji Song", "Li Erran Li", "Gao Huang"),
        year=2022,
        venue="CVPR",
        url="https://arxiv.org/abs/2201.00520",
        equation="equations 4 to 8",
        code="https://github.com/LeapLabTHU/DAT/tree/32173fcf10d71abe73267f4e99829cd8624b7ab6",
    ),
    revision=1,
    formula=r"O = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}} + B\right) V, \quad"
    r" [K, V] = X(p)\, [W_k, W_v], \quad p = \mathrm{clip}(p_0 + f(Q)), \quad"
    r" B_{is} = b(i - p_s)",
    deviations=(
        (
            "Options are those of the published DAT++ models: no tanh, points clipped to the grid; "
            "their strides are 8, 4, 2 and 1 and their filters 9, 7, 5 and 3 in the four stages, "
            "and the default is the third, whose patches are 16 pixels wide. The first paper "
            "bounds offsets by tanh instead: offset_range=2."
        ),
        (
            "Reference points lie as in the authors' code: point m of M at (m + 1/2) / (M - 1) of "
            "the side, so that the last lies beyond its end and is clipped to it; the paper "
            "describes a uniform grid."
        ),
        (
            "A group has 2 heads, as in the published tiny and base models (3 and 4 in the small "
            "one); with a number of heads that 2 does not divide, each head is a group."
        ),
        (
            "The position bias is interpolated for a point and all tokens at once, from one "
            "rectangle of the table; the authors' code samples the table for every pair."
        ),
        (
            "The position tables by depthwise convolution, fixed, and by a small network that the "
            "authors' code offers, and its option without offsets, are not part of this layer; no "
            "published model uses them."
        ),
        "In half precision, offsets, places and interpolations are computed in float32.",
    ),
    scaling="The stride stays the same while the grid grows: cost remains quadratic in tokens, by "
    "a factor of s^2 below softmax attention. The position table belongs to a grid.",
    options=DeformableOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=projection_flops,
    order=lambda _options: 2.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=False,
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
