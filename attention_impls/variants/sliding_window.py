"""Sliding-window attention (Longformer): a token sees its neighbours in the sequence.

    O_i = sum_{j in J(i)} softmax_j(q_i . k_j / sqrt(d)) v_j,   J(i) = {j : |i - j| <= w}

q_i, k_j, v_j: query, key and value of one head, each of d numbers; i, j: places of the grid's
tokens, row after row; w: tokens seen on each side; causal, J(i) = {j : 0 <= i - j <= w}. Extra
tokens (class tokens) are global: every token sees them beside its window, and they see every token,
with projections of their own:

    O_g = softmax(Q_g K_g^T / sqrt(d)) V_g,   Q_g, K_g, V_g: other linear maps of the layer's input.

Beltagy, Peters, Cohan, "Longformer: The Long-Document Transformer", 2020,
https://arxiv.org/abs/2004.05150, Section 3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.softmax_rows import softmax_of, softmax_rows, softmax_rows_flops
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Places = Float[Tensor, "batch heads places head_dim"]
Stream = Float[Tensor, "batch tokens channels"]

_LARGEST_BLOCK = 128
"""Queries that share one slice of keys: more would compute more scores outside the window."""
_SEGMENT_TOKENS = 1024
"""Queries whose scores are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindowOptions:
    """Options of sliding-window attention."""

    window_tokens: int = 256
    """Tokens w seen on each side of a token, which also sees itself."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.window_tokens < 1:
            raise ValueError(f"window_tokens is {self.window_tokens}, must be >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """How a window is cut into blocks: a block of queries sees `offsets` whole blocks of keys."""

    size: int
    """Tokens of a block."""
    before: int
    """Blocks seen before a query's own."""
    offsets: int
    """Blocks seen in all."""

    @property
    def keys(self) -> int:
        """Keys for which a query's scores are computed, those outside its window included."""
        return self.size * self.offsets


def blocks_of(window: int, *, causal: bool) -> Blocks:
    """Return blocks of half a window, at most 128 tokens: five of them, or three if causal."""
    size = min(_LARGEST_BLOCK, max(1, window // 2))
    reach = -(-window // size)
    return Blocks(size=size, before=reach, offsets=reach + 1 if causal else 2 * reach + 1)


class GlobalTokens(nn.Module):
    """What the extra tokens see: every token, through projections of their own.

    Parameters: `query`, `key`, `value`, linear maps from channels to channels.
    """

    def __init__(self, shape: AttentionShape, *, bias: bool) -> None:
        """Build for the heads and extra tokens of `shape`."""
        super().__init__()
        self.heads = shape.heads
        self.count = shape.extra_tokens
        self.query = nn.Linear(shape.channels, shape.channels, bias=bias)
        self.key = nn.Linear(shape.channels, shape.channels, bias=bias)
        self.value = nn.Linear(shape.channels, shape.channels, bias=bias)

    def forward(self, x: Stream) -> Float[Tensor, "batch heads extra head_dim"]:
        """Return the output of the extra tokens."""
        q, k, v = (
            t.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for t in (self.query(x[:, : self.count]), self.key(x), self.value(x))
        )
        return softmax_rows(q, k, v)


class SlidingWindowMix(nn.Module):
    """The formula of the module docstring. Parameters: those of `whole`, if there are extra tokens.

    `whole` computes the output of the extra tokens from the layer's input.
    """

    def __init__(self, shape: AttentionShape, options: SlidingWindowOptions) -> None:
        """Build; only the number of extra tokens and `causal` bind the module to `shape`."""
        super().__init__()
        self.window = options.window_tokens
        self.causal = shape.causal
        self.extra_tokens = shape.extra_tokens
        self.whole = GlobalTokens(shape, bias=options.qkv_bias) if shape.extra_tokens else None

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:
        """Attend."""
        first = self.extra_tokens
        blocks = blocks_of(self.window, causal=self.causal)
        q = q[:, :, first:]
        if grid.tokens <= blocks.keys:
            places = torch.arange(grid.tokens, device=q.device)
            hidden = F.pad(self._hidden(places[:, None], places), (first, 0))
            windows = softmax_rows(q, k, v, hidden)
        else:
            windows = self._blockwise(q, k, v, blocks)
        return windows if self.whole is None else torch.cat((self.whole(x), windows), 2)

    def _hidden(self, queries: Tensor, keys: Tensor) -> Bool[Tensor, "queries keys"]:
        """True where a place of a query does not see a place of a key."""
        distance = queries - keys
        outside = distance.abs() > self.window
        return outside.logical_or(distance < 0) if self.causal else outside

    def _blockwise(self, q: Places, k: Heads, v: Heads, blocks: Blocks) -> Places:
        """Attend block by block; `q` is without the extra tokens."""
        tokens, size = q.shape[2], blocks.size
        count = -(-tokens // size)
        after = blocks.offsets - 1 - blocks.before
        tail = count * size - tokens
        extra_k, extra_v = (t[:, :, None, : self.extra_tokens] for t in (k, v))
        around = (0, 0, blocks.before * size, after * size + tail)
        k, v = (t[:, :, self.extra_tokens :] for t in (k, v))
        k, v = (F.pad(t, around).unflatten(2, (-1, size)) for t in (k, v))
        q = (F.pad(q, (0, 0, 0, tail)) * q.shape[-1] ** -0.5).unflatten(2, (count, size))

        own = torch.arange(size, device=q.device)[:, None]
        seen = torch.arange(blocks.keys, device=q.device) - blocks.before * size
        band = self._hidden(own, seen)
        starts = torch.arange(count, device=q.device)[:, None, None] * size
        missing = (starts + seen < 0).logical_or(starts + seen >= tokens)

        mixed: list[Tensor] = []
        step = max(1, _SEGMENT_TOKENS // size)
        for start in range(0, count, step):
            stop = min(count, start + step)
            keys, values = (
                torch.cat([t[:, :, start + o : stop + o] for o in range(blocks.offsets)], 3)
                for t in (k, v)
            )
            queries = q[:, :, start:stop]
            scores = queries @ keys.mT
            inside = start >= blocks.before and (stop + after) * size <= tokens
            outside = band if inside else missing[start:stop].logical_or(band)
            scores.masked_fill_(outside, float("-inf"))
            if self.extra_tokens == 0:
                mixed.append(softmax_of(scores) @ values)
                continue
            weights = softmax_of(torch.cat((queries @ extra_k.mT, scores), -1))
            of_extra, of_window = weights.split((self.extra_tokens, blocks.keys), -1)
            mixed.append(of_window @ values + of_extra @ extra_v)
        return torch.cat(mixed, 2).flatten(2, 3)[:, :, :tokens]


def make(shape: AttentionShape, options: SlidingWindowOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, SlidingWindowMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: SlidingWindowOptions) -> int:
    """4 B P C (s + g), and for g extra tokens 4 B g N C + 2 B C^2 (g + 2 N).

    B batch, N tokens, C channels; P: grid tokens rounded up to whole blocks of b = min(128, w / 2);
    s: the keys whose scores are computed, b (2 w / b + 1), causal b (w / b + 1), w / b rounded up.
    A grid of no more than s tokens is one block: then P = s = the grid's tokens.
    """
    blocks = blocks_of(options.window_tokens, causal=shape.causal)
    matrices, extra = shape.batch * shape.heads, shape.extra_tokens
    queries = keys = shape.grid.tokens
    if queries > blocks.keys:
        queries, keys = -(-queries // blocks.size) * blocks.size, blocks.keys
    flops = softmax_rows_flops(matrices, queries, keys + extra, shape.head_dim)
    flops += softmax_rows_flops(matrices, extra, shape.tokens, shape.head_dim)
    if extra:
        flops += 2 * shape.batch * shape.channels**2 * (extra + 2 * shape.tokens)
    return flops


def state_floats(shape: AttentionShape, options: SlidingWindowOptions) -> int:
    """2 (2 w + 1 + g) C: keys and values of a window and of g extra tokens; causal w for 2 w."""
    sides = 1 if shape.causal else 2
    window = min(shape.grid.tokens, sides * options.window_tokens + 1)
    return 2 * (window + shape.extra_tokens) * shape.channels


def own_limits(shape: AttentionShape, _options: SlidingWindowOptions) -> tuple[str, ...]:
    """Return why `shape` cannot be computed."""
    if shape.causal and shape.extra_tokens:
        return (
            (
                f"no causal form with class tokens, which see all tokens: got "
                f"extra_tokens={shape.extra_tokens}, allowed 0"
            ),
        )
    return ()


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the attention of Longformer checkpoints: `self.*` and `output.dense`.

    The maps of the global tokens (`self.query_global`, ...) are those of a layer with extra tokens.
    """
    whole = {
        f"self.{name}_global.{kind}": f"whole.{name}.{kind}"
        for name in ("query", "key", "value")
        for kind in ("weight", "bias")
    }
    inputs = ("self.query", "self.key", "self.value")
    return adopt_projections(official, inputs, "output.dense", whole)


SPEC = AttentionSpec(
    name="sliding_window",
    title="Sliding window",
    family="local",
    paper=Paper(
        title="Longformer: The Long-Document Transformer",
        authors=("Iz Beltagy", "Matthew E. Peters", "Arman Cohan"),
        year=2020,
        venue="arXiv",
        url="https://arxiv.org/abs/2004.05150",
        equation="Section 3.1: sliding window and global attention",
        code=(
            "https://github.com/allenai/longformer/tree/caefee668e39cacdece7dd603a0bebf24df6d8ca"
        ),
    ),
    revision=1,
    formula=(
        r"O_i = \sum_{|i-j| \le w}"
        r" \mathrm{softmax}_j\!\left(\frac{q_i^\top k_j}{\sqrt d}\right) v_j"
    ),
    deviations=(
        (
            "The window runs along the sequence, on an image row after row and over the ends of "
            "rows, as published for text. Two-dimensional windows are other variants."
        ),
        (
            "The default w = 256 is that of the published models: on grids of 14 x 14 every token "
            "is within every window and the layer is softmax attention."
        ),
        (
            "Sequences of any length are computed, the tokens missing in the last block being "
            "hidden; the authors' code wants a multiple of 2 w. Scores far outside the window are "
            "not computed; theirs computes twice as many as a window has."
        ),
        (
            "Extra tokens are the global tokens, with the published separate projections. Which "
            "tokens are global is a choice of the task in the published models."
        ),
        (
            "Dilated windows, which exist for the authors' compiled kernel alone and in no "
            "published encoder, are not included. The causal form is that kernel's too; it has no "
            "global tokens here."
        ),
        "The softmax is computed in float32 for half-precision inputs, as in the authors' code.",
    ),
    scaling="The window keeps its tokens while the grid grows, so cost is linear in tokens.",
    options=SlidingWindowOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=True,
        any_grid=True,
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
