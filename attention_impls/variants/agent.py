"""Agent attention: a few pooled queries gather from all tokens, and all tokens read from them.

    O = softmax(s Q P^T + B_q) softmax(s P K^T + B_k) V + L

Q, K, V: queries, keys, values [N, d] of one head; P: the agents [a, d], queries averaged over a
p x p division of the grid, a = p^2; s = 1 / sqrt(d). B_k [a, N] and B_q [N, a]: learned numbers for
each head, agent and place, the sum of a 7 x 7 map resized to the grid, one number a row and one a
column; for a class token one number. L: a 3x3 depthwise convolution of the values on the grid. The
product of the two matrices is never formed: linear in N, rank a at most.

With a reduction r > 1, keys and values come from a map that an r x r convolution of stride r has
shrunk, and L convolves the values after bilinear interpolation to the grid.

Han, Ye, Han, Xia, Pan, Wan, Song, Huang, "Agent Attention: On the Integration of Softmax and Linear
Attention", ECCV 2024, https://arxiv.org/abs/2312.08874.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections, published_inputs
from attention_impls.parts.local_convolution import (
    channel_convolution,
    heads_of,
    image_of,
    local_convolution_flops,
)
from attention_impls.parts.reduced_multihead import (
    ReducedMultiHead,
    patch_count,
    patch_grid,
    reduced_projection_flops,
    reduction_limits,
)
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Queries = Float[Tensor, "batch heads tokens head_dim"]
Keys = Float[Tensor, "batch heads keys head_dim"]
Agents = Float[Tensor, "batch heads agents head_dim"]
Bias = Float[Tensor, "1 heads tokens keys"]

LOCAL_SIZE = 3
"""Rows and columns of the filters of L; fixed in paper and code."""
COARSE_SIZE = 7
"""Rows and columns of the bias map that is resized to the grid; fixed in paper and code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """Options of agent attention."""

    landmarks: int = 49
    """The agents: pooled queries a; a square number."""
    position_bias: bool = True
    """Add B_k and B_q; they bind the layer to its grid."""
    local_residual: bool = True
    """Add L, the depthwise convolution of the values."""
    reduction: int = 1
    """Side r of the patches that become one key and value; 1 keeps every token."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.landmarks < 1 or math.isqrt(self.landmarks) ** 2 != self.landmarks:
            raise ValueError(f"landmarks is {self.landmarks}, must be a square: 1, 4, 9, ...")
        if self.reduction < 1:
            raise ValueError(f"reduction is {self.reduction}, must be >= 1")


class BiasedAttention(nn.Module):
    """softmax(scale Q K^T + bias) V; a module, so that a backend can exchange it."""

    def forward(
        self, q: Queries, k: Keys, v: Keys, bias: Bias | None, scale: int | float
    ) -> Queries:
        """Attend."""
        sizes = q.shape[:2]
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        # scaled inside the product: no pass of its own
        scores = torch.baddbmm(q.new_zeros(()), q, k.mT, beta=0, alpha=scale)
        if bias is not None:
            by_item = scores.unflatten(0, sizes)
            scores = (by_item + bias if scores.requires_grad else by_item.add_(bias)).flatten(0, 1)
        accumulator = torch.promote_types(q.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=accumulator).to(v.dtype)
        return torch.bmm(weights, v).unflatten(0, sizes)


class PositionBias(nn.Module):
    """A learned number for each head, agent and token.

    Parameters: `coarse` [heads, agents, 7, 7], and with a leading axis of 1, `rows`, `columns` and
    `extra` (if there are class tokens), whose places come after the agents, or before them.
    """

    def __init__(
        self, grid: Grid, heads: int, agents: int, extra_tokens: int, *, agents_last: bool
    ) -> None:
        """Build for the rows and columns of `grid`."""
        super().__init__()
        self.agents_last = agents_last

        def table(*places: int) -> nn.Parameter:
            sizes = (*places, agents) if agents_last else (agents, *places)
            return nn.Parameter(torch.empty(1, heads, *sizes))

        self.coarse = nn.Parameter(torch.empty(heads, agents, COARSE_SIZE, COARSE_SIZE))
        self.rows = table(grid.height, 1)
        self.columns = table(1, grid.width)
        self.extra = table(extra_tokens) if extra_tokens else None
        self.size = (grid.height, grid.width)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def forward(self) -> Bias:
        """Return the bias in the layout of scores: [.., agents, tokens] or [.., tokens, agents]."""
        coarse = self.coarse
        if self.agents_last:
            # resized in the layout of the result, instead of transposing it afterwards
            coarse = coarse.contiguous(memory_format=torch.channels_last)
        fine = F.interpolate(coarse, size=self.size, mode="bilinear")
        if self.agents_last:
            fine = fine.permute(0, 2, 3, 1)
        places = 2 if self.agents_last else 3
        bias = (fine + (self.rows + self.columns)).flatten(places, places + 1)
        return bias if self.extra is None else torch.cat((self.extra, bias), places)


class AgentMix(nn.Module):
    """The formula of the module docstring.

    Parameters, each only if its option is on: `key_bias.*` (B_k), `query_bias.*` (B_q), `local`
    (the filters of L). `attend` has none.
    """

    def __init__(self, shape: AttentionShape, options: AgentOptions) -> None:
        """Build for `shape`; its grid binds the module if there is a position bias."""
        super().__init__()
        self.side = math.isqrt(options.landmarks)
        self.reduction = options.reduction
        self.bound_to = shape.grid if options.position_bias else None
        self.attend = BiasedAttention()
        keys = Grid(*patch_grid(shape.grid, options.reduction))
        sizes = (shape.heads, options.landmarks, shape.extra_tokens)
        biased = options.position_bias
        self.key_bias = PositionBias(keys, *sizes, agents_last=False) if biased else None
        self.query_bias = PositionBias(shape.grid, *sizes, agents_last=True) if biased else None
        self.local = (
            channel_convolution(shape.channels, LOCAL_SIZE) if options.local_residual else None
        )

    def forward(
        self,
        q: Queries,
        k: Keys,
        v: Keys,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Queries:
        """Return O; extra tokens, which come first, are no part of agents and convolution.

        Raises:
            UnsupportedShape: the position bias belongs to another grid, or k holds another number
                of tokens than the reduction leaves.
        """
        first = q.shape[2] - grid.tokens
        self.require(grid, k.shape[2], first)
        agents = self.pooled(q[:, :, first:], grid)
        key_bias = None if self.key_bias is None else self.key_bias()
        query_bias = None if self.query_bias is None else self.query_bias()
        scale = q.shape[3] ** -0.5
        gathered = self.attend(agents, k, v, key_bias, scale)
        out = self.attend(q, agents, gathered, query_bias, scale)
        if self.local is None:
            return out
        local = heads_of(self.local(self.image_of_values(v[:, :, first:], grid)), v.shape[1])
        # not in place: a fused attention keeps its output for the backward pass
        if first:
            return torch.cat((out[:, :, :first], out[:, :, first:] + local), 2)
        return out + local

    def pooled(self, q: Queries, grid: Grid) -> Agents:
        """Return the queries averaged over p x p parts of the grid, which overlap if need be."""
        return heads_of(F.adaptive_avg_pool2d(image_of(q, grid), self.side), q.shape[1])

    def image_of_values(self, v: Keys, grid: Grid) -> Float[Tensor, "batch channels height width"]:
        """Return the values on the grid; values of patches are interpolated to it."""
        if self.reduction == 1:
            return image_of(v, grid)
        image = image_of(v, Grid(*patch_grid(grid, self.reduction)))
        return F.interpolate(image, size=(grid.height, grid.width), mode="bilinear")

    def require(self, grid: Grid, keys: int, extra_tokens: int) -> None:
        """Refuse a grid that the position bias or the reduction does not fit."""
        if self.bound_to is not None and grid != self.bound_to:
            raise UnsupportedShape(
                f"agent: grid is {grid}, must be {self.bound_to}, the one of its position bias; "
                "build for this grid, or with position_bias=False"
            )
        needed = patch_count(grid, self.reduction) + extra_tokens
        if keys != needed:
            raise UnsupportedShape(
                f"agent: {keys} keys, grid {grid} with reduction {self.reduction} needs {needed}: "
                "reduce the tokens before they become keys and values"
            )


def own_limits(shape: AttentionShape, options: AgentOptions) -> tuple[str, ...]:
    """A reduction needs a patch to leave, and no class tokens."""
    reasons = reduction_limits(shape.grid, options.reduction)
    if options.reduction > 1 and shape.extra_tokens:
        return (
            *reasons,
            (
                f"no class tokens with a reduction: got extra_tokens={shape.extra_tokens}, "
                "allowed 0; or use reduction=1"
            ),
        )
    return reasons


def make(shape: AttentionShape, options: AgentOptions) -> MultiHead:
    """Build the layer."""
    mix = AgentMix(shape, options)
    if options.reduction == 1:
        return MultiHead(shape, mix, qkv_bias=options.qkv_bias)
    return ReducedMultiHead(shape, mix, qkv_bias=options.qkv_bias, side=options.reduction)


def core_flops(shape: AttentionShape, options: AgentOptions) -> int:
    """4 B a C (N + M), and with the local branch 18 B n C.

    B batch, N tokens, n of them on the grid, M keys (N without reduction), a agents, C channels:
    scores and weighted sums of both attentions; the convolution.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    keys = patch_count(shape.grid, options.reduction) + shape.extra_tokens
    mixing = 4 * batch * options.landmarks * channels * (tokens + keys)
    if not options.local_residual:
        return mixing
    return mixing + local_convolution_flops(batch, shape.grid, channels, LOCAL_SIZE)


def projection_flops(shape: AttentionShape, options: AgentOptions) -> int:
    """4 B N C^2 + 4 B M C^2, and with a reduction r the convolution, 2 B M C^2 r^2."""
    return reduced_projection_flops(shape, options.reduction)


def state_floats(shape: AttentionShape, options: AgentOptions) -> int:
    """2 a C: the agents and what they gathered; the local branch is not counted."""
    return 2 * options.landmarks * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `AgentAttention` of the DeiT, Swin (`qkv`) or PVT (`q`, `kv`) models."""
    kinds = ("weight", "bias")
    mix = {f"dwc.{kind}": f"local.{kind}" for kind in kinds}
    for side, (coarse, rows, columns, extra) in (
        ("key_bias", ("an", "ah", "aw", "ac")),
        ("query_bias", ("na", "ha", "wa", "ca")),
    ):
        names = {"coarse": coarse, "rows": rows, "columns": columns, "extra": extra}
        mix |= {f"{theirs}_bias": f"{side}.{ours}" for ours, theirs in names.items()}
    maps = (("sr", "reduce"), ("norm", "norm"))
    layer = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in maps for kind in kinds}
    inside = {name: value for name, value in official.items() if name not in layer}
    adopted = adopt_projections(inside, published_inputs(official), "proj", mix)
    return adopted | {
        ours: official[theirs] for theirs, ours in layer.items() if theirs in official
    }


SPEC = AttentionSpec(
    name="agent",
    title="Agent attention",
    family="low_rank",
    paper=Paper(
        title="Agent Attention: On the Integration of Softmax and Linear Attention",
        authors=(
            "Dongchen Han",
            "Tianzhu Ye",
            "Yizeng Han",
            "Zhuofan Xia",
            "Siyuan Pan",
            "Pengfei Wan",
            "Shiji Song",
            "Gao Huang",
        ),
        year=2024,
        venue="ECCV",
        url="https://arxiv.org/abs/2312.08874",
        equation="the agent attention module, with agent bias and diversity restoration",
        code="https://github.com/LeapLabTHU/Agent-Attention/tree/"
        "207ce3eb357b22ef8a15f8fa21cd1f14697bbaba",
    ),
    revision=1,
    formula=r"O = \sigma\left(s\, Q P^\top + B_q\right)"
    r" \sigma\left(s\, P K^\top + B_k\right) V + \mathrm{DWC}_{3 \times 3}(V), \quad"
    r" P = \mathrm{pool}(Q), \quad s = 1/\sqrt{d}",
    deviations=(
        (
            "The authors' code takes the grid to be square; here the grid is given, and agents are "
            "a p x p division of it in any case: on a sequence, p agents that occur p times."
        ),
        (
            "Any number of class tokens has a bias each; the authors' code has one. They are no "
            "part of the agents and have no local branch, as in the authors' DeiT model."
        ),
        (
            "The factor s enters inside both products; the authors' code scales the agents in the "
            "one and the queries in the other: the same function."
        ),
        (
            "In half precision the softmax is computed in float32 and its weights are rounded to "
            "the dtype of the values."
        ),
        (
            "With a reduction, rows and columns that fill no patch are dropped, and class tokens "
            "are refused, which the authors' PVT model does not have."
        ),
        (
            "The stripes of the authors' CSwin model are not part of this layer; over a whole grid "
            "it is the same function."
        ),
    ),
    scaling="The 49 agents stay 49, so cost is linear in tokens; the position bias has a number "
    "for each agent, row and column and binds a layer to its grid.",
    options=AgentOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=projection_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=False,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    own_limits=own_limits,
    adopt_official=adopt_official,
)
