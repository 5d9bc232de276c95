"""Grouped-query attention: softmax attention in which several query heads share a key-value head.

    O_h = softmax(Q_h K_g^T / sqrt(d)) V_g,    g = floor(h key_heads / heads)

Q_h: queries [N, d] of head h; K_g, V_g: keys and values [N, d] of the group g that head h belongs
to; N tokens. One key-value head is multi-query attention, as many as query heads is softmax
attention. Saved are projections and, in decoding, the memory and the traffic of keys and values;
the products of the mix are as many as ever.

Ainslie, Lee-Thorp, de Jong, Zemlyanskiy, Lebrón, Sanghai, "GQA: Training Generalized Multi-Query
Transformer Models from Multi-Head Checkpoints", EMNLP 2023, https://arxiv.org/abs/2305.13245,
section 2.2; one key-value head: Shazeer, 2019, https://arxiv.org/abs/1911.02150. The authors
published no code of it; the widely used module is that of Llama 2.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import (
    absent_bias_is_zero,
    adopt_projections,
    merge_heads,
    require_tokens,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
KeyHeads = Float[Tensor, "batch key_heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryOptions:
    """Options of grouped-query attention."""

    key_heads: int = 1
    """Heads of keys and values; divides the heads of the queries. The paper prefers 8 of 64."""
    qkv_bias: bool = False
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.key_heads < 1:
            raise ValueError(f"key_heads is {self.key_heads}, must be >= 1")


class GroupedQueryMix(nn.Module):
    """O of the module docstring, for as many key-value heads as it is given; no parameters."""

    def __init__(self, *, causal: bool) -> None:
        """Build; `causal` gives weight to keys j <= i alone."""
        super().__init__()
        self.causal = causal

    def forward(
        self,
        q: Heads,
        k: KeyHeads,
        v: KeyHeads,
        x: Stream,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Return O; `x` and `grid` play no part."""
        tokens, groups = q.shape[2], k.shape[1]
        # the queries of a group stand below each other: keys and values are never repeated
        stacked = (q * q.shape[-1] ** -0.5).reshape(q.shape[0], groups, -1, q.shape[-1])
        scores = stacked @ k.mT
        if self.causal:
            # adding a matrix is faster than filling by a mask
            later = scores.new_full((tokens, tokens), float("-inf")).triu(1)
            scores.unflatten(2, (-1, tokens)).add_(later)
        accumulator = torch.promote_types(q.dtype, torch.float32)
        out = scores.softmax(-1, dtype=accumulator).to(q.dtype) @ v
        return out.view(q.shape)


class GroupedQuery(nn.Module):
    """The layer. Parameters: `qkv` (queries, then keys, then values) and `out`."""

    streams = "qkv"

    def __init__(self, shape: AttentionShape, options: GroupedQueryOptions) -> None:
        """Build for the channels of `shape`; its grid plays no part."""
        super().__init__()
        self.heads = shape.heads
        self.head_dim = shape.head_dim
        self.extra_tokens = shape.extra_tokens
        self.key_heads = options.key_heads
        width = shape.channels + 2 * options.key_heads * shape.head_dim
        self.qkv = nn.Linear(shape.channels, width, bias=options.qkv_bias)
        self.mix = GroupedQueryMix(causal=shape.causal)
        self.out = nn.Linear(shape.channels, shape.channels)
        self.register_load_state_dict_pre_hook(absent_bias_is_zero)

    def project(self, x: Stream) -> tuple[Heads, KeyHeads, KeyHeads]:
        """Return q of all heads, k and v of one head a group."""
        projected = self.qkv(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = projected.split((self.heads, self.key_heads, self.key_heads), 1)
        return q, k, v

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        require_tokens(x, grid, self.extra_tokens)
        q, k, v = self.project(x)
        return self.out(merge_heads(self.mix(q, k, v, x, grid)))


def make(shape: AttentionShape, options: GroupedQueryOptions) -> GroupedQuery:
    """Build the layer."""
    return GroupedQuery(shape, options)


def core_flops(shape: AttentionShape, _options: GroupedQueryOptions) -> int:
    """4 B N^2 C: scores and weighted values, 2 B N^2 C each, however many heads share a key.

    B batch, N tokens, C channels; causal weights are not skipped.
    """
    return 4 * shape.batch * shape.tokens**2 * shape.channels


def projection_flops(shape: AttentionShape, options: GroupedQueryOptions) -> int:
    """4 B N C (C + g d): queries and output, then keys and values of g key heads of d channels."""
    width = shape.channels + options.key_heads * shape.head_dim
    return 4 * shape.batch * shape.tokens * shape.channels * width


def state_floats(shape: AttentionShape, options: GroupedQueryOptions) -> int:
    """2 N g d: every key and every value of g key heads."""
    return 2 * shape.tokens * options.key_heads * shape.head_dim


def own_limits(shape: AttentionShape, options: GroupedQueryOptions) -> tuple[str, ...]:
    """Groups are of one size."""
    if shape.heads % options.key_heads:
        return (f"key_heads is {options.key_heads}; it must divide the {shape.heads} heads",)
    return ()


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `Attention` of Llama 2."""
    return adopt_projections(official, ("wq", "wk", "wv"), "wo", {})


SPEC = AttentionSpec(
    name="grouped_query",
    title="Grouped-query attention",
    family="pairwise",
    paper=Paper(
        title="GQA: Training Generalized Multi-Query Transformer Models from Multi-Head "
        "Checkpoints",
        authors=(
            "Joshua Ainslie",
            "James Lee-Thorp",
            "Michiel de Jong",
            "Yury Zemlyanskiy",
            "Federico Lebrón",
            "Sumit Sanghai",
        ),
        year=2023,
        venue="EMNLP",
        url="https://arxiv.org/abs/2305.13245",
        equation="section 2.2",
        code="https://github.com/meta-llama/llama/blob/"
        "689c7f261b9c5514636ecc3c5fefefcbb3e6eed7/llama/model.py",
    ),
    revision=1,
    formula=r"O_h = \mathrm{softmax}\!\left(\frac{Q_h K_{g(h)}^\top}{\sqrt d}\right) V_{g(h)},"
    r"\quad g(h) = \lfloor h\, G / H \rfloor",
    deviations=(
        (
            "The default is one key-value head, the multi-query end of the paper's range, because "
            "it divides every number of heads; the paper recommends 8 for models of 64 heads."
        ),
        (
            "At level core a case is given as many key-value heads as query heads, so there this "
            "is softmax attention; what is shared shows at level layer."
        ),
        (
            "Llama's code turns queries and keys with their position (RoPE) and repeats keys and "
            "values for each query head; here there is no position, and nothing is repeated."
        ),
        "The published output projection has no bias; here it has one, as in other variants.",
    ),
    scaling="There is nothing to scale; cost and memory grow with the square of the tokens.",
    options=GroupedQueryOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=projection_flops,
    order=lambda _options: 2.0,
    state_floats=state_floats,
    own_limits=own_limits,
    traits=Traits(
        causal=True,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=True,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=True,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
