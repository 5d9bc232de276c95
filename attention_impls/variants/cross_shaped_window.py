"""Cross-shaped window attention (CSWin): half of the heads in columns of the grid, half in rows.

    O_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j + L_i,    j in the stripe of i

q_i, k_j, v_j: query, key and value of one head, each of d numbers. For the first half of the heads
stripes are sw columns wide and as high as the grid, for the other half sw rows high and as wide as
the grid. L is the locally enhanced position encoding: a 3x3 depthwise convolution of the values
within the stripe, with filters of its own for each channel.

Dong, Bao, Chen, Zhang, Yu, Yuan, Chen, Guo, "CSWin Transformer: A General Vision Transformer
Backbone with Cross-Shaped Windows", CVPR 2022, https://arxiv.org/abs/2107.00652, sections 3.2 and
3.3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.local_convolution import local_convolution_flops
from attention_impls.parts.softmax_attention import SoftmaxAttention, softmax_attention_flops
from attention_impls.parts.windows import Windows
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

LOCAL_SIDE = 3
"""Rows and columns of the filters of L; fixed in paper and code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossShapedWindowOptions:
    """Options of cross-shaped window attention."""

    stripe: int = 7
    """Width sw of a stripe; a grid that is no wider is one stripe."""
    whole_grid: bool = False
    """All heads attend to the whole grid, as in the last stage of the published models."""
    local_residual: bool = True
    """Add L, the convolution of the values."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.stripe < 1:
            raise ValueError(f"stripe is {self.stripe}, must be >= 1")


class CrossShapedWindowMix(nn.Module):
    """The formula of the module docstring. Parameters: `local`, the filters of L, if it is on."""

    def __init__(self, shape: AttentionShape, options: CrossShapedWindowOptions) -> None:
        """Build for the channels of `shape`; its grid plays no part."""
        super().__init__()
        self.options = options
        self.attend = SoftmaxAttention()
        self.local = (
            nn.Conv2d(
                shape.channels,
                shape.channels,
                LOCAL_SIDE,
                padding=LOCAL_SIDE // 2,
                groups=shape.channels,
            )
            if options.local_residual
            else None
        )

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Return O; `x` plays no part."""
        mixed: list[Tensor] = []
        for first, last, stripes in directions(q.shape[1], grid, self.options):
            queries, keys, values = (stripes.cut(t[:, first:last]) for t in (q, k, v))
            out = self.attend(queries, keys, values, stripes.absent_keys(q))
            if self.local is None:
                joined = stripes.join(out)
            else:
                local = self.local_encoding(v[:, first:last], first, stripes)
                joined = stripes.join_maps(local + out.transpose(2, 3))
            mixed.append(joined.transpose(1, 2))
        return torch.cat(mixed, 2).transpose(1, 2)

    def local_encoding(
        self, v: Heads, first: int, stripes: Windows
    ) -> Float[Tensor, "batch windows window_tokens heads head_dim"]:
        """Return L for heads from number `first` on, in stripes."""
        assert self.local is not None  # noqa: S101 - the caller asks only where there is one
        batch, heads, _, head_dim = v.shape
        maps = stripes.cut_maps(v)
        channels = slice(first * head_dim, (first + heads) * head_dim)
        bias = self.local.bias
        convolved = F.conv2d(
            maps.permute(0, 3, 1, 2),
            self.local.weight[channels],
            None if bias is None else bias[channels],
            padding=LOCAL_SIDE // 2,
            groups=heads * head_dim,
        )
        return convolved.permute(0, 2, 3, 1).reshape(
            batch, stripes.count, stripes.tokens_each, heads, head_dim
        )


def directions(
    heads: int, grid: Grid, options: CrossShapedWindowOptions
) -> tuple[tuple[int, int, Windows], ...]:
    """Return (first head, last head + 1, stripes) of the upright and of the lying stripes.

    Where stripes do not divide the grid, both rims have narrower ones, as in the authors'
    segmentation code.
    """
    if options.whole_grid:
        return ((0, heads, Windows(grid=grid, rows=grid.height, columns=grid.width)),)
    width, height = min(options.stripe, grid.width), min(options.stripe, grid.height)
    upright = Windows(grid=grid, rows=grid.height, columns=width, left=-grid.width % width // 2)
    lying = Windows(grid=grid, rows=height, columns=grid.width, top=-grid.height % height // 2)
    middle = (heads + 1) // 2
    return ((0, middle, upright), (middle, heads, lying))


def own_limits(shape: AttentionShape, options: CrossShapedWindowOptions) -> tuple[str, ...]:
    """One head cannot attend in two directions."""
    if options.whole_grid or shape.heads > 1:
        return ()
    return ("one head cannot be divided between upright and lying stripes: use heads >= 2",)


def make(shape: AttentionShape, options: CrossShapedWindowOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, CrossShapedWindowMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: CrossShapedWindowOptions) -> int:
    """4 B P sw side C / 2 for each direction, and with the local residual 18 B P C / 2.

    B batch, P places in all stripes of a direction (N tokens, more where the stripes reach over the
    border), sw times side the places of a stripe, C channels.
    """
    total = 0
    for first, last, stripes in directions(shape.heads, shape.grid, options):
        channels = (last - first) * shape.head_dim
        rows = shape.batch * stripes.places
        total += softmax_attention_flops(rows, stripes.tokens_each, channels)
        if options.local_residual:
            total += local_convolution_flops(rows, Grid(1, 1), channels, LOCAL_SIDE)
    return total


def order(options: CrossShapedWindowOptions) -> float:
    """A stripe is as long as the grid: N^1.5."""
    return 2.0 if options.whole_grid else 1.5


def state_floats(shape: AttentionShape, options: CrossShapedWindowOptions) -> int:
    """2 sw side C / 2 for each direction: the keys and values of one stripe."""
    return sum(
        2 * stripes.tokens_each * (last - first) * shape.head_dim
        for first, last, stripes in directions(shape.heads, shape.grid, options)
    )


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the attention of one `CSWinBlock`: `qkv`, `proj` and `get_v` of one or two directions."""
    learned = dict(official)
    for kind in ("weight", "bias"):
        names = [name for i in (0, 1) if (name := f"attns.{i}.get_v.{kind}") in learned]
        if names:
            learned[f"get_v.{kind}"] = torch.cat([learned.pop(name) for name in names])
    mix = {f"get_v.{kind}": f"local.{kind}" for kind in ("weight", "bias")}
    return adopt_projections(learned, ("qkv",), "proj", mix)


SPEC = AttentionSpec(
    name="cross_shaped_window",
    title="Cross-shaped windows (CSWin)",
    family="local",
    paper=Paper(
        title="CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows",
        authors=(
            "Xiaoyi Dong",
            "Jianmin Bao",
            "Dongdong Chen",
            "Weiming Zhang",
            "Nenghai Yu",
            "Lu Yuan",
            "Dong Chen",
            "Baining Guo",
        ),
        year=2022,
        venue="CVPR",
        url="https://arxiv.org/abs/2107.00652",
        equation="sections 3.2 and 3.3",
        code="https://github.com/microsoft/CSWin-Transformer/tree/"
        "f111ae2f771df32006e7afd7916835dd67d4cb9d",
    ),
    revision=1,
    formula=r"O_i = \sum_{j \in S_h(i)} \mathrm{softmax}_j"
    r"\left(\frac{q_i^\top k_j}{\sqrt{d}}\right) v_j + L_i",
    deviations=(
        (
            "The published stripe widths are 1, 2, 7 and 7 in the four stages of a model; the "
            "default is that of the third, whose patches are 16 pixels wide."
        ),
        (
            "Where stripes do not divide the grid, they lie as in the authors' segmentation code "
            "and places beyond the border are hidden; there, zero keys take part in the softmax. "
            "Their classification code refuses such grids."
        ),
        (
            "With an odd number of heads the upright stripes have one more. The authors' code "
            "would instead make heads of another width; their models have even numbers."
        ),
        (
            "The paper lets the first heads attend in rows; here, as in the authors' code, they "
            "attend in columns."
        ),
        (
            "The convolutions of the two directions are one parameter; their single one, in the "
            "last stage, is the same parameter."
        ),
    ),
    scaling="The stripe stays 7 wide and grows in length with the grid, so that cost grows as the "
    "1.5th power of the tokens.",
    options=CrossShapedWindowOptions(),
    make=make,
    core_flops=core_flops,
    order=order,
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
    own_limits=own_limits,
    adopt_official=adopt_official,
)
