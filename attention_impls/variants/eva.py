"""EVA: exact attention within a window, and one control variate for each chunk of the grid.

    O_i = sum_{j in W(i)} s_ij v_j + sum_c t_ic beta_c
    (s_i, t_i) = softmax over both of (q_i . k_j / sqrt(d) + b_ij, q_i . k'_c / sqrt(d))
    beta_c = sum_{j in c} softmax_j(w_c . k_j / sqrt(d) - |k_j|^2 / (2 sqrt(d))) v_j

q_i, k_j, v_j: query, key and value of one head, each of d numbers; W(i): the window of 7 x 7 tokens
that i lies in; b_ij: learned bias of their relative position; c: chunks that cut the grid into
about 49; k'_c, q'_c: means of the keys and queries of chunk c, then a linear map and LayerNorm that
the heads share. w_c: sample of a Gaussian around (q'_c + k'_c) / 2: in evaluation the centre
itself, in training with noise N(0, I).

Zheng, Yuan, Wang, Kong, "Efficient Attention via Control Variates", ICLR 2023,
https://arxiv.org/abs/2302.04542, Section 4. Where code and paper differ, see `deviations`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.softmax_rows import softmax_of
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Tiles = Float[Tensor, "batch heads tiles places head_dim"]
Proposal = Literal["norm", "linear", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaOptions:
    """Options of EVA."""

    window_side: int = 7
    """Rows and columns of a window."""
    landmarks: int = 49
    """Chunks that the sides of a chunk are chosen for."""
    proposal: Proposal = "norm"
    """Maps of the chunk means: linear and LayerNorm, linear alone, or centres w_c that are 0."""
    position_bias: bool = True
    """Add a learned number for each relative position within a window."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        for name in ("window_side", "landmarks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be >= 1")


def window_of(grid: Grid, options: EvaOptions) -> Grid:
    """Return the sides of a window: 7 x 7, or as many tokens where a side of the grid is shorter.

    On a sequence a window is a row of 49 tokens.
    """
    return _fitted(grid, options.window_side**2, options.window_side)


def chunk_of(grid: Grid, options: EvaOptions) -> Grid:
    """Return the sides of a chunk: squares of N / landmarks tokens, both rounded down."""
    area = max(1, grid.tokens // options.landmarks)
    return _fitted(grid, area, math.isqrt(area))


def _fitted(grid: Grid, area: int, side: int) -> Grid:
    """A square of `side`, or where the grid is narrower a rectangle of at most `area` tokens."""
    if min(grid.height, grid.width) >= side:
        return Grid(side, side)
    if grid.height <= grid.width:
        return Grid(grid.height, min(grid.width, area // grid.height))
    return Grid(min(grid.height, area // grid.width), grid.width)


def tiles_of(grid: Grid, tile: Grid) -> Grid:
    """Return the rows and columns of tiles that cover the grid."""
    return Grid(-(-grid.height // tile.height), -(-grid.width // tile.width))


def tiled(heads: Heads, grid: Grid, tile: Grid) -> Tiles:
    """Cut the tokens of the grid into tiles, with zeros beyond its last row and column."""
    batch, count, _, head_dim = heads.shape
    tiles = tiles_of(grid, tile)
    image = heads.unflatten(2, (grid.height, grid.width))
    below, right = tiles.height * tile.height, tiles.width * tile.width
    if (below, right) != (grid.height, grid.width):
        image = F.pad(image, (0, 0, 0, right - grid.width, 0, below - grid.height))
    sides = (tiles.height, tile.height, tiles.width, tile.width)
    parts = image.reshape(batch, count, *sides, head_dim).transpose(3, 4)
    return parts.reshape(batch, count, tiles.tokens, tile.tokens, head_dim)


def untiled(tiles: Tiles, grid: Grid, tile: Grid) -> Heads:
    """Undo `tiled`."""
    many = tiles_of(grid, tile)
    sides = (many.height, many.width, tile.height, tile.width)
    image = tiles.unflatten(3, sides[2:]).unflatten(2, sides[:2]).transpose(3, 4)
    image = image.reshape(*tiles.shape[:2], sides[0] * sides[2], sides[1] * sides[3], -1)
    return image[:, :, : grid.height, : grid.width].flatten(2, 3)


def beyond(grid: Grid, tile: Grid, device: torch.device) -> Bool[Tensor, "tiles places"] | None:
    """Return which places of the tiles lie beyond the grid; None: none does."""
    tiles = tiles_of(grid, tile)
    if tiles.height * tile.height == grid.height and tiles.width * tile.width == grid.width:
        return None
    rows = torch.arange(tiles.height * tile.height, device=device).view(tiles.height, 1, -1, 1)
    columns = torch.arange(tiles.width * tile.width, device=device).view(1, tiles.width, 1, -1)
    outside = (rows >= grid.height).logical_or(columns >= grid.width)
    return outside.flatten(2).flatten(0, 1)


class PositionBias(nn.Module):
    """One learned number for each head and relative position in a window.

    Parameter: `table` [entries, heads]. Buffer: `index` [places, places] (not saved).
    """

    index: Int[Tensor, "places places"]

    def __init__(self, window: Grid, heads: int) -> None:
        super().__init__()
        rows = torch.arange(window.height).repeat_interleave(window.width)
        columns = torch.arange(window.width).repeat(window.height)
        below = rows[:, None] - rows + window.height - 1
        right = columns[:, None] - columns + window.width - 1
        # as published: rows are one width apart, so that some positions share a number
        self.register_buffer("index", below * window.width + right, persistent=False)
        entries = 2 * (window.height - 1) * window.width + 2 * (window.width - 1) + 1
        self.table = nn.Parameter(torch.empty(entries, heads))
        nn.init.normal_(self.table, std=0.02)

    def forward(self) -> Float[Tensor, "heads 1 places places"]:
        """Return the biases."""
        chosen = self.table.index_select(0, self.index.flatten())
        return chosen.T.unflatten(1, self.index.shape).unsqueeze(1)


class EvaMix(nn.Module):
    """The formulas of the module docstring.

    Parameters: `queries` and `keys`, the maps of the chunk means (no `queries` where centres are
    0), and those of `bias`.
    """

    def __init__(self, shape: AttentionShape, options: EvaOptions) -> None:
        """Build; the window's sides are those of the grid of `shape`, on other grids too."""
        super().__init__()
        self.options = options
        self.window = window_of(shape.grid, options)
        self.queries = None if options.proposal == "zero" else _map(shape.head_dim, options)
        self.keys = _map(shape.head_dim, options)
        self.bias = PositionBias(self.window, shape.heads) if options.position_bias else None

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Attend."""
        centres, estimates = self._chunks(q, k, v, grid)
        queries, keys, values = (tiled(t, grid, self.window) for t in (q, k, v))
        queries = queries * q.shape[-1] ** -0.5
        within = queries @ keys.mT
        if self.bias is not None:
            within = within + self.bias()
        hidden = beyond(grid, self.window, q.device)
        if hidden is not None:
            within.masked_fill_(hidden.unsqueeze(1), float("-inf"))
        places = self.window.tokens
        of_chunks = (queries.flatten(2, 3) @ centres.mT).unflatten(2, (-1, places))
        weights = softmax_of(torch.cat((within, of_chunks), -1))
        of_window, of_chunks = weights.split((places, centres.shape[2]), -1)
        far = (of_chunks.flatten(2, 3) @ estimates).unflatten(2, (-1, places))
        return untiled(of_window @ values + far, grid, self.window)

    def _chunks(self, q: Heads, k: Heads, v: Heads, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return k' and beta, both [batch, heads, chunks, head_dim]."""
        chunk, exact = chunk_of(grid, self.options), torch.promote_types(q.dtype, torch.float32)
        keys, values = (tiled(t, grid, chunk) for t in (k, v))
        hidden = beyond(grid, chunk, q.device)
        # what lies beyond the grid is zero and counts for nothing
        share = 1 / chunk.tokens
        if hidden is not None:
            share = hidden.logical_not().sum(1, keepdim=True).reciprocal().to(q.dtype)
        key_means = self.keys(keys.sum(3) * share)
        samples = torch.zeros_like(key_means)
        if self.queries is not None:
            samples = (self.queries(tiled(q, grid, chunk).sum(3) * share) + key_means) / 2
        if self.training:
            samples = samples + torch.randn_like(samples)
        scale = q.shape[-1] ** -0.5
        logits = ((keys * scale) @ samples.unsqueeze(-1)).squeeze(-1).to(exact)
        logits = logits - keys.to(exact).square().sum(-1) * (scale / 2)
        if hidden is not None:
            logits = logits.masked_fill(hidden, float("-inf"))
        weights = logits.softmax(-1).to(q.dtype).unsqueeze(-2)
        return key_means, (weights @ values).squeeze(-2)


def _map(head_dim: int, options: EvaOptions) -> nn.Module:
    linear = nn.Linear(head_dim, head_dim)
    if options.proposal == "linear":
        return nn.Sequential(linear)
    return nn.Sequential(linear, nn.LayerNorm(head_dim))


def make(shape: AttentionShape, options: EvaOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, EvaMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: EvaOptions) -> int:
    """4 B P C (p + c) + 4 B Q C + 4 B c C d: window and chunks for a query, estimates, the maps.

    B batch, C channels, d head_dim, c chunks, p tokens of a window; P and Q: tokens of the grid
    filled up to whole windows and to whole chunks. The maps cost half with centres that are 0.
    """
    window, chunk = window_of(shape.grid, options), chunk_of(shape.grid, options)
    chunks = tiles_of(shape.grid, chunk).tokens
    queries = tiles_of(shape.grid, window).tokens * window.tokens
    flops = queries * (window.tokens + chunks) + chunks * chunk.tokens
    maps = 1 if options.proposal == "zero" else 2
    return shape.batch * shape.channels * (4 * flops + 2 * maps * chunks * shape.head_dim)


def state_floats(shape: AttentionShape, options: EvaOptions) -> int:
    """2 (p + c) C: keys and values of a window of p tokens, k' and beta of c chunks."""
    chunks = tiles_of(shape.grid, chunk_of(shape.grid, options)).tokens
    return 2 * (window_of(shape.grid, options).tokens + chunks) * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the authors' `EVA` with windows of the grid (`attn_2d`)."""
    mix = {"local_relative_position_bias_table": "bias.table"}
    for stream, name in (("q", "queries"), ("k", "keys")):
        for layer in (0, 1):
            for kind in ("weight", "bias"):
                mix[f"adaptive_mu_{stream}.{layer}.{kind}"] = f"{name}.{layer}.{kind}"
    # a constant of the window's size
    learned = {k: v for k, v in official.items() if k != "relative_position_index"}
    return adopt_projections(learned, ("qkv",), "proj", mix)


SPEC = AttentionSpec(
    name="eva",
    title="EVA",
    family="local",
    paper=Paper(
        title="Efficient Attention via Control Variates",
        authors=("Lin Zheng", "Jianbo Yuan", "Chong Wang", "Lingpeng Kong"),
        year=2023,
        venue="ICLR",
        url="https://arxiv.org/abs/2302.04542",
        equation="Section 4: local control variates and their approximate expectation",
        code=(
            "https://github.com/HKUNLP/efficient-attention/tree/"
            "531ff5169b56fcec9d0a361125cffb62ab5e8781"
        ),
    ),
    revision=1,
    formula=(
        r"O_i = \frac{\sum_{j \in W(i)} e^{q_i^\top k_j / \sqrt d + b_{ij}}\, v_j"
        r" + \sum_c e^{q_i^\top k'_c / \sqrt d}\, \beta_c}"
        r"{\sum_{j \in W(i)} e^{q_i^\top k_j / \sqrt d + b_{ij}}"
        r" + \sum_c e^{q_i^\top k'_c / \sqrt d}}"
    ),
    deviations=(
        (
            "Sides of the grid that windows or chunks do not divide are filled up with hidden "
            "tokens, which the means of the chunks do not count; the authors' code refuses such "
            "grids, and gives the same on the others."
        ),
        (
            "Where a side of the grid is shorter than a window or chunk they become rectangles of "
            "no more tokens: 1 x 49 on a sequence. The authors' code has another form for "
            "sequences. A layer keeps the window of the grid that it was built for."
        ),
        (
            "In the authors' table of relative positions, as here, rows are 7 entries apart where "
            "13 columns need to be told from each other: pairs of positions share a number."
        ),
        (
            "Windows that overlap, the logarithmic positions of the text models and the causal "
            "form, another module with chunks of fixed length and so quadratic cost, are not "
            "included."
        ),
        "Softmax weights are computed in float32 for half-precision inputs.",
    ),
    scaling="About 49 chunks grow with the grid while windows stay, so cost is linear in tokens.",
    options=EvaOptions(),
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
