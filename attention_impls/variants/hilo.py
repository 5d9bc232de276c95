"""HiLo attention (LITv2): some heads attend within small windows, the others to averages of them.

    O = [A(Q_h, K_h, V_h in windows) W_h, A(Q_l, pool(K_l), pool(V_l)) W_l]
    A(Q, K, V) = softmax(Q K^T / sqrt(d)) V

Q, K, V: queries, keys and values of the first heads (h, high frequencies) and of the others (l, low
frequencies), d numbers a head; pool: the mean over each window of s x s tokens; W_h, W_l: output
maps of the two groups, side by side. A share alpha of the heads, rounded down, is of kind l.
Projections are linear, so that the layer projects the means instead of averaging projections.

Pan, Cai, Zhuang, "Fast Vision Transformers with HiLo Attention", NeurIPS 2022,
https://arxiv.org/abs/2205.13213, section 3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import merge_heads
from attention_impls.parts.softmax_attention import SoftmaxAttention, softmax_attention_flops
from attention_impls.parts.windows import Windows
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Means = Float[Tensor, "batch heads windows head_dim"]
Stream = Float[Tensor, "batch tokens channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HiloOptions:
    """Options of HiLo attention."""

    window: int = 2
    """Side s of a window; 1 leaves softmax attention."""
    low_share: int | float = 0.9
    """Share alpha of the heads that attend to averages, from 0 to 1."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window is {self.window}, must be >= 1")
        if not 0 <= self.low_share <= 1:
            raise ValueError(f"low_share is {self.low_share}, must be from 0 to 1")

    def low_heads(self, heads: int) -> int:
        """Heads that attend to averages."""
        return heads if self.window == 1 else int(heads * self.low_share)


class HiloMix(nn.Module):
    """Both kinds of attention; no parameters. High heads come first."""

    def __init__(self, shape: AttentionShape, options: HiloOptions) -> None:
        """Build for the heads of `shape`; its grid plays no part."""
        super().__init__()
        self.options = options
        self.high_heads = shape.heads - options.low_heads(shape.heads)
        self.attend = SoftmaxAttention()

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return O before the output maps; `x` plays no part."""
        first = self.high_heads
        groups: list[Tensor] = []
        if first:
            groups.append(self.high(q[:, :first], k[:, :first], v[:, :first], grid))
        if first < q.shape[1]:
            keys, values = (self.averages(t[:, first:], grid) for t in (k, v))
            groups.append(self.low(q[:, first:], keys, values))
        return torch.cat([group.transpose(1, 2) for group in groups], 2).transpose(1, 2)

    def high(self, q: Heads, k: Heads, v: Heads, grid: Grid) -> Heads:
        """Attend within windows."""
        windows = windows_of(grid, self.options)
        queries, keys, values = (windows.cut(t) for t in (q, k, v))
        return windows.join(self.attend(queries, keys, values, windows.absent_keys(q)))

    def low(self, q: Heads, k: Means, v: Means) -> Heads:
        """Attend to averages."""
        return self.attend(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)).squeeze(1)

    def averages(self, heads: Heads, grid: Grid) -> Means:
        """Return the mean of each window."""
        means = averaged(merge_heads(heads), windows_of(grid, self.options))
        return means.unflatten(2, heads.shape[1::2]).transpose(1, 2)


def windows_of(grid: Grid, options: HiloOptions) -> Windows:
    """Windows over `grid`; those at the border may hold fewer tokens."""
    side = options.window
    return Windows(grid=grid, rows=min(side, grid.height), columns=min(side, grid.width))


def averaged(x: Stream, windows: Windows) -> Float[Tensor, "batch windows channels"]:
    """Return the mean over the tokens of each window."""
    if windows.tokens_each == 1:
        return x
    maps = x.unflatten(1, (windows.grid.height, windows.grid.width)).permute(0, 3, 1, 2)
    side = (windows.rows, windows.columns)
    means = F.avg_pool2d(maps, side, ceil_mode=True, count_include_pad=False)
    return means.flatten(2).transpose(1, 2)


class HiloAttention(nn.Module):
    """The layer.

    Parameters: `high_qkv` and `high_out` if there are high heads; `low_q`, `low_kv` and `low_out`
    if there are low ones.
    """

    def __init__(self, shape: AttentionShape, options: HiloOptions) -> None:
        """Build for the heads and channels of `shape`."""
        super().__init__()
        self.head_dim = shape.head_dim
        self.mix = HiloMix(shape, options)
        bias = options.qkv_bias
        high = self.mix.high_heads * shape.head_dim
        low = shape.channels - high
        if high:
            self.high_qkv = nn.Linear(shape.channels, 3 * high, bias=bias)
            self.high_out = nn.Linear(high, high)
        if low:
            self.low_q = nn.Linear(shape.channels, low, bias=bias)
            self.low_kv = nn.Linear(shape.channels, 2 * low, bias=bias)
            self.low_out = nn.Linear(low, low)
        self.has_high, self.has_low = high > 0, low > 0

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        if x.shape[1] != grid.tokens:
            raise UnsupportedShape(
                f"x has {x.shape[1]} tokens, grid {grid} needs {grid.tokens}; "
                "pass the grid of this call"
            )
        groups: list[Tensor] = []
        if self.has_high:
            q, k, v = self._split(self.high_qkv(x), 3)
            groups.append(self.high_out(merge_heads(self.mix.high(q, k, v, grid))))
        if self.has_low:
            means = averaged(x, windows_of(grid, self.mix.options))
            (q,), (k, v) = self._split(self.low_q(x), 1), self._split(self.low_kv(means), 2)
            groups.append(self.low_out(merge_heads(self.mix.low(q, k, v))))
        return torch.cat(groups, 2)

    def _split(self, x: Stream, streams: int) -> tuple[Tensor, ...]:
        parts = x.unflatten(2, (streams, -1, self.head_dim)).unbind(2)
        return tuple(part.transpose(1, 2) for part in parts)


def make(shape: AttentionShape, options: HiloOptions) -> HiloAttention:
    """Build the layer."""
    return HiloAttention(shape, options)


def core_flops(shape: AttentionShape, options: HiloOptions) -> int:
    """4 B P s^2 C_h + 4 B N M C_l: attention within windows, and to their M means.

    B batch, N tokens, P places in all windows (N, or more where they reach over the border), s
    window, C_h and C_l channels of the high and low heads.
    """
    windows = windows_of(shape.grid, options)
    low = options.low_heads(shape.heads) * shape.head_dim
    high = shape.channels - low
    inside = softmax_attention_flops(shape.batch * windows.places, windows.tokens_each, high)
    return inside + softmax_attention_flops(shape.batch * shape.tokens, windows.count, low)


def projection_flops(shape: AttentionShape, options: HiloOptions) -> int:
    """6 B N C C_h + 2 B N C_h^2, and 2 B (N + 2 M) C C_l + 2 B N C_l^2 for M means."""
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    low = options.low_heads(shape.heads) * shape.head_dim
    high = channels - low
    means = windows_of(shape.grid, options).count
    outputs = tokens * (high**2 + low**2)
    return (
        2 * batch * (3 * tokens * channels * high + (tokens + 2 * means) * channels * low + outputs)
    )


def order(options: HiloOptions) -> float:
    """The means are a fixed fraction of the tokens: quadratic, unless all heads are high."""
    return 2.0 if options.low_share > 0 or options.window == 1 else 1.0


def state_floats(shape: AttentionShape, options: HiloOptions) -> int:
    """2 s^2 C_h + 2 M C_l: keys and values of one window, and of all means."""
    windows = windows_of(shape.grid, options)
    low = options.low_heads(shape.heads) * shape.head_dim
    return 2 * (windows.tokens_each * (shape.channels - low) + windows.count * low)


OFFICIAL = {
    "h_qkv": "high_qkv",
    "h_proj": "high_out",
    "l_q": "low_q",
    "l_kv": "low_kv",
    "l_proj": "low_out",
}
"""The authors' names of the five maps -> ours."""


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `HiLo` of LITv2.

    Raises:
        KeyError: a parameter that is not one of the five maps.
    """
    names = {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in OFFICIAL.items()
        for kind in ("weight", "bias")
    }
    if unknown := sorted(set(official) - set(names)):
        raise KeyError(f"no place for the published parameters {', '.join(unknown)}")
    return {names[name]: value for name, value in official.items()}


SPEC = AttentionSpec(
    name="hilo",
    title="HiLo (LITv2)",
    family="hybrid",
    paper=Paper(
        title="Fast Vision Transformers with HiLo Attention",
        authors=("Zizheng Pan", "Jianfei Cai", "Bohan Zhuang"),
        year=2022,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2205.13213",
        equation="section 3",
        code="https://github.com/ziplab/LITv2/tree/7501c8662991cad6db780b61fac0886b56a76588",
    ),
    revision=1,
    formula=r"O = \left[A(Q_h, K_h, V_h)_{s \times s}\, W_h,\;"
    r" A(Q_l, \mathrm{pool}_s K_l, \mathrm{pool}_s V_l)\, W_l\right], \quad"
    r" A(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V",
    deviations=(
        (
            "The share of low heads is that of the published models, 0.9, rounded down; the "
            "authors' module by itself has 0.5."
        ),
        (
            "Grids that the windows do not divide are computed: windows at the border hold fewer "
            "tokens. The authors' module refuses them."
        ),
        (
            "At core level keys and values are given for all tokens and averaged; the layer "
            "averages its input and projects the averages, which is the same and costs less."
        ),
        "Queries or keys are scaled, whichever are fewer; the authors' code scales the scores.",
    ),
    scaling="The window stays 2x2 while the grid grows: the low heads stay quadratic in tokens, by "
    "a factor of s^2 below softmax attention.",
    options=HiloOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=projection_flops,
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
    adopt_official=adopt_official,
)
