"""BigBird: blocks of tokens that see their neighbours, a few random blocks, and the two ends.

    O_a = softmax(Q_a K_J(a)^T / sqrt(d)) V_J(a),   J(a) = {0, a - 1, a, a + 1, n - 1} + R(a)

The sequence is cut into n blocks of b tokens; Q_a: queries [b, d] of block a of one head; K_J, V_J:
keys and values of the blocks in J, each block once; R(a): r random blocks, drawn once for each
head. The first and the last block are global: they see every token.

Zaheer et al., "Big Bird: Transformers for Longer Sequences", NeurIPS 2020,
https://arxiv.org/abs/2007.14062, Section 2 (internal transformer construction).
"""

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.softmax_rows import softmax_of, softmax_rows, softmax_rows_flops
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Table = tuple[tuple[tuple[int, ...], ...], ...]
RandomFrom = Literal["first_blocks", "all_blocks"]

_FIXED_SLOTS = 5
"""Blocks that every middle block sees: the first, three around itself, the last."""
_LAST_OF_WINDOW, _LAST = 3, 4
"""Slots of the block after the own one, and of the last block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BigBirdOptions:
    """Options of BigBird."""

    block_tokens: int = 64
    """Tokens b of a block."""
    random_blocks: int = 3
    """Random blocks r that a block sees."""
    random_from: RandomFrom = "first_blocks"
    """Where they are drawn from: the first 2 r + 5 blocks, as published, or all blocks."""
    seed: int = 0
    """Seed of the random blocks, which are drawn once and kept."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.block_tokens < 1:
            raise ValueError(f"block_tokens is {self.block_tokens}, must be >= 1")
        if self.random_blocks < 0:
            raise ValueError(f"random_blocks is {self.random_blocks}, must be >= 0")


def block_count(tokens: int, options: BigBirdOptions) -> int:
    """Return the number of blocks n; the last one may be shorter."""
    return -(-tokens // options.block_tokens)


def is_full(tokens: int, options: BigBirdOptions) -> bool:
    """Return whether all tokens see all: no more than 2 r + 5 blocks, 704 tokens by default."""
    return block_count(tokens, options) <= 2 * options.random_blocks + _FIXED_SLOTS


def allowed_blocks(row: int, blocks: int, options: BigBirdOptions) -> list[int]:
    """Return the blocks that may be drawn for block `row`: none that it sees anyway.

    As in the authors' code the last block of the range is left out, and the blocks next to the two
    ends of the range never draw each other.
    """
    end = blocks
    if options.random_from == "first_blocks":
        end = min(blocks, 2 * options.random_blocks + _FIXED_SLOTS)
    seen = {0, row - 1, row, row + 1, end - 1}
    if row == 1:
        seen.add(end - 2)
    if row == end - 2:
        seen.add(1)
    return [block for block in range(end) if block not in seen]


@torch.compiler.assume_constant_result
def drawn_blocks(heads: int, blocks: int, options: BigBirdOptions) -> Table:
    """Return R for each head and each block between the two ends, a function of the arguments."""
    return _drawn(heads, blocks, options)


@cache
def _drawn(heads: int, blocks: int, options: BigBirdOptions) -> Table:
    draw = random.Random(options.seed)
    rows = [allowed_blocks(row, blocks, options) for row in range(1, blocks - 1)]
    count = options.random_blocks
    return tuple(tuple(tuple(draw.sample(row, count)) for row in rows) for _ in range(heads))


class BigBirdMix(nn.Module):
    """The formula of the module docstring; no parameters.

    Buffer: `drawn` [heads, n - 2, r], R of the grid it was built for (not saved; unless all tokens
    see all).
    """

    drawn: Int[Tensor, "heads rows random"] | None

    def __init__(self, shape: AttentionShape, options: BigBirdOptions) -> None:
        super().__init__()
        self.options = options
        self.heads = shape.heads
        self.built_for = shape.tokens
        table = None
        if not is_full(shape.tokens, options):
            table = self._table(block_count(shape.tokens, options))
        self.register_buffer("drawn", table, persistent=False)

    def _table(self, blocks: int) -> Int[Tensor, "heads rows random"]:
        table = torch.tensor(drawn_blocks(self.heads, blocks, self.options), dtype=torch.int64)
        return table.view(self.heads, blocks - 2, self.options.random_blocks)

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend; the tokens are one sequence, extra tokens first and so in the first block."""
        tokens, size = q.shape[2], self.options.block_tokens
        if is_full(tokens, self.options):
            return softmax_rows(q, k, v)
        blocks = block_count(tokens, self.options)
        last = (blocks - 1) * size
        ends = softmax_rows(torch.cat((q[:, :, :size], q[:, :, last:]), 2), k, v)
        middle = self._middle(q[:, :, size:last], k, v, blocks)
        return torch.cat((ends[:, :, :size], middle, ends[:, :, size:]), 2)

    def _middle(
        self, q: Float[Tensor, "batch heads middle head_dim"], k: Heads, v: Heads, blocks: int
    ) -> Float[Tensor, "batch heads middle head_dim"]:
        """Attend with all blocks but the first and the last."""
        size = self.options.block_tokens
        tail = blocks * size - k.shape[2]
        slots = self._slots(blocks, q.device)
        keys, values = (_gathered(F.pad(t, (0, 0, 0, tail)), slots, size) for t in (k, v))
        q = (q * q.shape[-1] ** -0.5).unflatten(2, (blocks - 2, size))
        scores = q @ keys.mT
        # what is seen twice, once as a neighbour and once as an end, counts once
        scores[:, :, 0, :, :size].fill_(float("-inf"))
        scores[:, :, -1, :, _LAST * size : (_LAST + 1) * size].fill_(float("-inf"))
        if tail:
            scores[..., (_LAST + 1) * size - tail : (_LAST + 1) * size].fill_(float("-inf"))
            neighbour_end = (_LAST_OF_WINDOW + 1) * size
            scores[:, :, -1, :, neighbour_end - tail : neighbour_end].fill_(float("-inf"))
        return (softmax_of(scores) @ values).flatten(2, 3)

    def visible_blocks(
        self, tokens: int, device: torch.device
    ) -> Bool[Tensor, "heads blocks blocks"] | None:
        """Return which block sees which; None: every one sees every one."""
        if is_full(tokens, self.options):
            return None
        blocks = block_count(tokens, self.options)
        seen = torch.zeros(self.heads, blocks, blocks, dtype=torch.bool, device=device)
        seen[:, (0, -1)] = True
        seen[:, 1:-1] = seen[:, 1:-1].scatter(2, self._slots(blocks, device), True)
        return seen

    def _slots(self, blocks: int, device: torch.device) -> Int[Tensor, "heads rows slots"]:
        """Blocks that each middle block sees, in the order 0, a - 1, a, a + 1, n - 1, R."""
        table = self.drawn
        if table is None or blocks != block_count(self.built_for, self.options):
            table = self._table(blocks).to(device)
        rows = torch.arange(1, blocks - 1, device=device)
        ends = torch.zeros_like(rows), torch.full_like(rows, blocks - 1)
        fixed = torch.stack((ends[0], rows - 1, rows, rows + 1, ends[1]), 1)
        return torch.cat((fixed.expand(self.heads, -1, -1), table), 2)


def _gathered(
    heads: Float[Tensor, "batch heads padded head_dim"],
    slots: Int[Tensor, "heads rows slots"],
    size: int,
) -> Float[Tensor, "batch heads rows seen head_dim"]:
    """Return the tokens of the blocks `slots`, side by side."""
    batch, count, padded, head_dim = heads.shape
    blocks = padded // size
    of_head = torch.arange(count, device=heads.device)[:, None, None] * blocks
    flat = heads.reshape(batch, count * blocks, size * head_dim)
    chosen = flat.index_select(1, (slots + of_head).flatten())
    return chosen.view(batch, count, slots.shape[1], -1, head_dim)


def make(shape: AttentionShape, options: BigBirdOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    return MultiHead(shape, BigBirdMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: BigBirdOptions) -> int:
    """4 B C ((b + t) N + (n - 2) b (5 + r) b): the two ends, and the blocks between them.

    B batch, N tokens, C channels, n blocks of b tokens, the last of t, r random blocks; a block
    that is seen twice is computed twice. 4 B N^2 C where all tokens see all.
    """
    tokens, size = shape.tokens, options.block_tokens
    matrices, width = shape.batch * shape.heads, shape.head_dim
    if is_full(tokens, options):
        return softmax_rows_flops(matrices, tokens, tokens, width)
    middle = (block_count(tokens, options) - 2) * size
    seen = (_FIXED_SLOTS + options.random_blocks) * size
    ends = softmax_rows_flops(matrices, tokens - middle, tokens, width)
    return ends + softmax_rows_flops(matrices, middle, seen, width)


def state_floats(shape: AttentionShape, _options: BigBirdOptions) -> int:
    """2 N C: every key and every value, which the two ends see all."""
    return 2 * shape.tokens * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the attention of the authors' checkpoints as converted to PyTorch.

    Names are those of the converted form, `self.query` and so on; the original has TensorFlow
    kernels of shape [channels, heads, head_dim].
    """
    inputs = ("self.query", "self.key", "self.value")
    return adopt_projections(official, inputs, "output.dense", {})


SPEC = AttentionSpec(
    name="bigbird",
    title="BigBird",
    family="sparse",
    paper=Paper(
        title="Big Bird: Transformers for Longer Sequences",
        authors=(
            "Manzil Zaheer",
            "Guru Guruganesh",
            "Avinava Dubey",
            "Joshua Ainslie",
            "Chris Alberti",
            "Santiago Ontanon",
            "Philip Pham",
            "Anirudh Ravula",
            "Qifan Wang",
            "Li Yang",
            "Amr Ahmed",
        ),
        year=2020,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2007.14062",
        equation="Section 2: random, window and global attention, internal construction",
        code=(
            "https://github.com/google-research/bigbird/tree/"
            "5e7d375950f9b001e13f1bbafb814c2956ed80af"
        ),
    ),
    revision=1,
    formula=r"O_a = \mathrm{softmax}\!\left(\frac{Q_a K_{J(a)}^\top}{\sqrt d}\right) V_{J(a)},\quad"
    r" J(a) = \{0, a-1, a, a+1, n-1\} \cup R(a)",
    deviations=(
        (
            "The paper draws random blocks from the whole sequence. The authors' code draws them "
            "from the first 2 r + 5 blocks (from the first 1024 tokens where the sequence has "
            "1024, 2048, 3072 or 4096), so that a token sees far keys only near the start. This is "
            "the default; random_from='all_blocks' is the paper's."
        ),
        (
            "The code's list for those four lengths can draw a block that the window has already, "
            "and counts it twice; here random blocks are always others."
        ),
        (
            "Blocks are drawn from the option seed instead of numpy's global generator, once for "
            "each head, and are the same in every layer with the same seed."
        ),
        (
            "With no more than 2 r + 5 blocks (704 tokens by default) all tokens see all, as in "
            "the usual PyTorch port; the authors' code wants full attention to be asked for."
        ),
        (
            "A last block with fewer tokens is computed, missing keys being hidden; the authors' "
            "code wants whole blocks. Hidden keys have weight 0 instead of exp(-10000)."
        ),
        (
            "Extra tokens are part of the sequence: they stand first and so in a global block. The "
            "construction with global tokens of its own (ETC) is not included."
        ),
        (
            "Softmax weights are computed in float32 for half-precision inputs and rounded to "
            "their dtype."
        ),
    ),
    scaling="A block keeps seeing 512 keys while the grid grows, so cost is linear in tokens.",
    options=BigBirdOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
