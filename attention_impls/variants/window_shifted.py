"""Shifted window attention (Swin): softmax attention inside square windows of the grid.

    O_i = sum_j softmax_j(q_i . k_j / sqrt(d) + b(i - j)) v_j,    j in the window of i

q_i, k_j, v_j: query, key and value of one head, each of d numbers, for the token i = (row, column);
b: a learned number for each head and each offset between two tokens of a window of w x w. Layers
alternate: in every other one the windows are moved by s = floor(w / 2) rows and columns, so that
tokens meet across the borders of before. A moved window at the rim of the grid is the part of it
that lies on the grid; the parts of opposite rims are computed together in one window of full size
(cyclic shift) and hidden from each other.

Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, "Swin Transformer: Hierarchical Vision Transformer using
Shifted Windows", ICCV 2021, https://arxiv.org/abs/2103.14030, section 3.2, equation 4.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections, merge_heads
from attention_impls.parts.softmax_attention import SoftmaxAttention, softmax_attention_flops
from attention_impls.parts.windows import Windows, same_region_bias
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowShiftedOptions:
    """Options of shifted window attention."""

    window: int = 7
    """Side w of a window; a grid shorter than that is one window in that direction."""
    shifted: bool = True
    """Move the windows by floor(w / 2), as every other layer of the published models does."""
    position_bias: bool = True
    """Add the learned b to the scores."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window is {self.window}, must be >= 1")


class WindowShiftedMix(nn.Module):
    """The formula of the module docstring.

    Parameters: `position_bias` [(2w - 1)^2, heads], row by row the offsets from -(w - 1) to w - 1.
    """

    kept_mask: Tensor | None

    def __init__(self, shape: AttentionShape, options: WindowShiftedOptions) -> None:
        """Build for the heads of `shape`; the mask of its grid is kept, others are computed."""
        super().__init__()
        self.options = options
        self.attend = SoftmaxAttention()
        self.position_bias = None
        if options.position_bias:
            self.position_bias = nn.Parameter(
                torch.empty((2 * options.window - 1) ** 2, shape.heads)
            )
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
        windows = windows_of(grid, self.options)
        down, right = shift_of(grid, self.options)
        queries, keys, values = (
            windows.cut_frame(_moved(windows.framed(t), -down, -right, 2)) for t in (q, k, v)
        )
        out = self.attend(queries, keys, values, self.bias(grid, windows, q))
        return windows.cropped(_moved(windows.join_frame(out), down, right, 1))

    def of_moved_tokens(self, q: Heads, k: Heads, v: Heads, grid: Grid) -> Heads:
        """Return O for tokens that are moved already, on a grid that the windows fill."""
        windows = windows_of(grid, self.options)
        queries, keys, values = (windows.cut(t) for t in (q, k, v))
        return windows.join(self.attend(queries, keys, values, self.bias(grid, windows, q)))

    def bias(
        self, grid: Grid, windows: Windows, like: Tensor
    ) -> Float[Tensor, "#windows #heads window_tokens window_tokens"] | None:
        """Everything added to the scores; None if that is nothing."""
        mask = self.kept_mask if grid == self.grid else mask_of(grid, self.options)
        if mask is not None:
            mask = mask.to(like)
        if self.position_bias is None:
            return mask
        table = offset_bias(self.position_bias, self.options.window, windows)
        return table if mask is None else table + mask


def windows_of(grid: Grid, options: WindowShiftedOptions) -> Windows:
    """Windows over `grid`; in a direction in which it is shorter than one, as long as the grid."""
    side = options.window
    return Windows(grid=grid, rows=min(side, grid.height), columns=min(side, grid.width))


def shift_of(grid: Grid, options: WindowShiftedOptions) -> tuple[int, int]:
    """Rows and columns that the windows are moved by; 0 where one window is all there is."""
    move = options.window // 2 if options.shifted else 0
    return (
        move if grid.height > options.window else 0,
        move if grid.width > options.window else 0,
    )


def mask_of(
    grid: Grid, options: WindowShiftedOptions
) -> Float[Tensor, "windows 1 window_tokens window_tokens"] | None:
    """Hides parts of opposite rims from each other, and places beyond the border from tokens."""
    windows, shift = windows_of(grid, options), shift_of(grid, options)
    if windows.fills and shift == (0, 0):
        return None
    rows = _regions(windows.down, windows.rows, grid.height, shift[0])
    columns = _regions(windows.across, windows.columns, grid.width, shift[1])
    return same_region_bias(rows, columns)


def _regions(count: int, side: int, length: int, shift: int) -> Float[Tensor, "count side"]:
    """0 for rows that come from the opposite rim, 1 for the others, 2 beyond the border."""
    rows = torch.arange(count * side).roll(-shift)
    return ((rows >= shift).float() + (rows >= length).float()).view(count, side)


def offset_bias(
    table: Float[Tensor, "offsets heads"], side: int, windows: Windows
) -> Float[Tensor, "1 heads window_tokens window_tokens"]:
    """Look up b for every pair of tokens of a window, by views alone."""
    rows, columns = windows.rows, windows.columns
    grid = table.T.unflatten(1, (2 * side - 1, 2 * side - 1))
    used = grid[:, side - rows : side + rows - 1, side - columns : side + columns - 1]
    # [heads, row of i, column of i, row of j reversed, column of j reversed]
    pairs = used.unfold(1, rows, 1).unfold(2, columns, 1).flip(3, 4)
    return pairs.flatten(3, 4).flatten(1, 2).unsqueeze(0)


class WindowShiftedAttention(MultiHead):
    """A layer that moves its one input instead of queries, keys and values."""

    mix: WindowShiftedMix

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        options = self.mix.options
        if not windows_of(grid, options).fills:
            return super().forward(x, grid)
        if x.shape[1] != grid.tokens:
            raise UnsupportedShape(
                f"x has {x.shape[1]} tokens, grid {grid} needs {grid.tokens}; "
                "pass the grid of this call"
            )
        down, right = shift_of(grid, options)
        image = x.unflatten(1, (grid.height, grid.width))
        q, k, v = self.project(_moved(image, -down, -right, 1).flatten(1, 2))
        out = self.out(merge_heads(self.mix.of_moved_tokens(q, k, v, grid)))
        image = out.unflatten(1, (grid.height, grid.width))
        return _moved(image, down, right, 1).flatten(1, 2)


def _moved(frame: Tensor, down: int, right: int, dim: int) -> Tensor:
    """Move tokens around a map whose rows are axis `dim` and whose columns are the next."""
    return frame.roll((down, right), (dim, dim + 1)) if down or right else frame


def make(shape: AttentionShape, options: WindowShiftedOptions) -> MultiHead:
    """Build the layer."""
    mix = WindowShiftedMix(shape, options)
    return WindowShiftedAttention(shape, mix, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: WindowShiftedOptions) -> int:
    """4 B P w^2 C: scores and weighted values inside windows.

    B batch, P places in all windows (N tokens, more where the windows reach over the border), w
    window, C channels. What the mask hides is computed and counted.
    """
    windows = windows_of(shape.grid, options)
    rows = shape.batch * windows.places
    return softmax_attention_flops(rows, windows.tokens_each, shape.channels)


def state_floats(shape: AttentionShape, options: WindowShiftedOptions) -> int:
    """2 w^2 C: the keys and values of one window."""
    return 2 * windows_of(shape.grid, options).tokens_each * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `WindowAttention` of Swin; its index table follows from the window."""
    derived = ("relative_position_index", "attn_mask")
    learned = {name: value for name, value in official.items() if name not in derived}
    mix = {"relative_position_bias_table": "position_bias"}
    return adopt_projections(learned, ("qkv",), "proj", mix)


SPEC = AttentionSpec(
    name="window_shifted",
    title="Shifted windows (Swin)",
    family="local",
    paper=Paper(
        title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        authors=(
            "Ze Liu",
            "Yutong Lin",
            "Yue Cao",
            "Han Hu",
            "Yixuan Wei",
            "Zheng Zhang",
            "Stephen Lin",
            "Baining Guo",
        ),
        year=2021,
        venue="ICCV",
        url="https://arxiv.org/abs/2103.14030",
        equation="section 3.2, equation 4",
        code="https://github.com/microsoft/Swin-Transformer/tree/"
        "f82860bfb5225915aca09c3227159ee9e1df874d",
    ),
    revision=1,
    formula=r"O_i = \sum_{j \in W(i)} \mathrm{softmax}_j"
    r"\left(\frac{q_i^\top k_j}{\sqrt{d}} + b_{i-j}\right) v_j",
    deviations=(
        (
            "The published models alternate layers with and without shift; one layer is measured, "
            "the shifted one by default."
        ),
        (
            "Grids that the windows do not divide are computed, with the places beyond the border "
            "hidden. The authors' classification code refuses them; their detection code fills up "
            "with zeros before the projections, whose bias then takes part in the softmax."
        ),
        (
            "A grid that is shorter than the window in one direction only is one window in that "
            "direction. The authors' code makes windows square with the shorter side and drops the "
            "shift; on square grids the two agree."
        ),
        "Parts of opposite rims are hidden by -inf, where the authors' code adds -100.",
    ),
    scaling="The window stays 7x7 while the grid grows, so that cost is linear in tokens and a "
    "token sees an ever smaller share of the image; information travels from layer to layer.",
    options=WindowShiftedOptions(),
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
    adopt_official=adopt_official,
)
