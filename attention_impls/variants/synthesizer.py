"""Synthesizer: the scores of softmax attention are learned, not products of queries and keys.

    O = softmax(R) V

V: values [N, d] of one head; R: scores [N, N] of the head, one of

    factorized_random   R = R_1 R_2^T, learned, [N, k] each
    random              R learned
    dense               R = relu(X W_1 + b_1) W_2 + b_2, row by row from the layer's input X

with W_1 [C, d] of the head and W_2 [d, N] shared by all heads. R has a column a token: a layer
belongs to the grid it was built for. Causal: row i keeps columns j <= i.

Tay, Bahri, Metzler, Juan, Zhao, Zheng, "Synthesizer: Rethinking Self-Attention for Transformer
Models", ICML 2021, https://arxiv.org/abs/2005.00743, section 3.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits, square_projections

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]
Scores = Float[Tensor, "batch_or_one heads tokens tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesizerOptions:
    """Options of Synthesizer."""

    scores: Literal["factorized_random", "random", "dense"] = "factorized_random"
    """Where the scores come from, see the module docstring."""
    rank: int = 32
    """k, the columns of the two factors of `factorized_random`."""
    qkv_bias: bool = True
    """The projection of the values has a bias."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}, must be >= 1")


class FactorizedScores(nn.Module):
    """Parameters: `rows`, `columns` [tokens, heads, rank]."""

    def __init__(self, shape: AttentionShape, rank: int) -> None:
        super().__init__()
        size = (shape.tokens, shape.heads, rank)
        self.rows = nn.Parameter(torch.empty(size).normal_(std=rank**-0.5))
        self.columns = nn.Parameter(torch.empty(size).normal_(std=rank**-0.5))

    def forward(self, x: Stream) -> Scores:  # noqa: ARG002 - the same for every input
        """Return R_1 R_2^T."""
        return (self.rows.transpose(0, 1) @ self.columns.permute(1, 2, 0)).unsqueeze(0)


class RandomScores(nn.Module):
    """Parameter: `scores` [heads, tokens, tokens]."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        size = (shape.heads, shape.tokens, shape.tokens)
        self.scores = nn.Parameter(torch.empty(size).normal_(std=shape.tokens**-0.5))

    def forward(self, x: Stream) -> Scores:  # noqa: ARG002 - the same for every input
        """Return R."""
        return self.scores.unsqueeze(0)


class DenseScores(nn.Module):
    """Parameters: `hidden` (channels to channels) and `scores` (head_dim to tokens)."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.hidden = nn.Linear(shape.channels, shape.channels)
        self.scores = nn.Linear(shape.head_dim, shape.tokens)

    def forward(self, x: Stream) -> Scores:
        """Return R for each item of the batch."""
        hidden = F.relu(self.hidden(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return self.scores(hidden)


class SynthesizerMix(nn.Module):
    """O of the module docstring. Parameters: `scores`, of one of the three kinds."""

    def __init__(self, shape: AttentionShape, options: SynthesizerOptions) -> None:
        """Build for the grid of `shape` and no other."""
        super().__init__()
        self.grid = shape.grid
        self.causal = shape.causal
        if options.scores == "factorized_random":
            self.scores = FactorizedScores(shape, options.rank)
        elif options.scores == "random":
            self.scores = RandomScores(shape)
        else:
            self.scores = DenseScores(shape)

    def forward(
        self,
        q: Heads,  # noqa: ARG002
        k: Heads,  # noqa: ARG002
        v: Heads,
        x: Stream,
        grid: Grid,
    ) -> Heads:
        """Return O. Raises UnsupportedShape on any grid but the one it was built for."""
        if grid != self.grid:
            raise UnsupportedShape(
                f"synthesizer: built for grid {self.grid}, got {grid}; its scores have one column "
                "a token, so build a layer for each grid"
            )
        scores = self.scores(x)
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=v.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        accumulator = torch.promote_types(v.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=accumulator).to(v.dtype)
        if weights.shape[0] == v.shape[0]:
            return weights @ v
        # one matrix for the whole batch: its items stand side by side
        side_by_side = v.permute(1, 2, 0, 3).flatten(2)
        out = (weights[0] @ side_by_side).unflatten(2, (v.shape[0], v.shape[3]))
        return out.permute(2, 0, 1, 3)


_PLACES: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "value.bias": ("qkv.bias", None),
    "out.bias": ("out.bias", None),
    "random1": ("mix.scores.rows", (1, 0, 2)),
    "random2": ("mix.scores.columns", (2, 0, 1)),
    "random": ("mix.scores.scores", (0, 1, 2)),
    "dense_syn.bias": ("mix.scores.hidden.bias", None),
    "dense_syn_len.kernel": ("mix.scores.scores.weight", (1, 0)),
    "dense_syn_len.bias": ("mix.scores.scores.bias", None),
}
"""Published name, ours, and the order of its axes here; None for one long axis."""


def make(shape: AttentionShape, options: SynthesizerOptions) -> MultiHead:
    """Build the layer; there are no queries and no keys."""
    mix = SynthesizerMix(shape, options)
    return MultiHead(shape, mix, qkv_bias=options.qkv_bias, streams="v")


def core_flops(shape: AttentionShape, options: SynthesizerOptions) -> int:
    """2 B N^2 C, and for the scores 2 N^2 h k, or 2 B N C^2 + 2 B N^2 C where they are dense.

    B batch, N tokens, C channels, h heads, k rank; random scores cost nothing. Causal weights are
    not skipped.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    weighted = 2 * batch * tokens**2 * channels
    if options.scores == "factorized_random":
        return weighted + 2 * tokens**2 * shape.heads * options.rank
    if options.scores == "random":
        return weighted
    return 2 * weighted + 2 * batch * tokens * channels**2


def state_floats(shape: AttentionShape, _options: SynthesizerOptions) -> int:
    """N C: every value."""
    return shape.tokens * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `SynthesizerAttention` of the Long Range Arena, flattened to `scope.parameter`.

    Its kernels are stored inputs first. Scores of other lengths than the layer's do not load.
    """
    value, out = official["value.kernel"], official["out.kernel"]
    adopted = {
        "qkv.weight": value.reshape(len(value), -1).mT,
        "out.weight": out.reshape(-1, out.shape[-1]).mT,
    }
    for theirs, (ours, axes) in _PLACES.items():
        if theirs in official:
            tensor = official[theirs]
            adopted[ours] = tensor.flatten() if axes is None else tensor.permute(axes)
    if "dense_syn.kernel" in official:
        hidden = official["dense_syn.kernel"]
        adopted["mix.scores.hidden.weight"] = hidden.reshape(len(hidden), -1).mT
    known = {"value.kernel", "out.kernel", "dense_syn.kernel", *_PLACES}
    if unknown := sorted(set(official) - known):
        raise KeyError(f"no place for the published parameters {', '.join(unknown)}")
    return adopted


SPEC = AttentionSpec(
    name="synthesizer",
    title="Synthesizer",
    family="pairwise",
    paper=Paper(
        title="Synthesizer: Rethinking Self-Attention for Transformer Models",
        authors=(
            "Yi Tay",
            "Dara Bahri",
            "Donald Metzler",
            "Da-Cheng Juan",
            "Zhe Zhao",
            "Che Zheng",
        ),
        year=2021,
        venue="ICML",
        url="https://arxiv.org/abs/2005.00743",
        equation="section 3",
        code="https://github.com/google-research/long-range-arena/blob/"
        "cd31e5c6b8e5bceabd28de2d2afb23f7ae5d36d8/lra_benchmarks/models/synthesizer/"
        "synthesizer_attention.py",
    ),
    revision=1,
    formula=r"O = \mathrm{softmax}(R)\, V, \quad R = R_1 R_2^\top",
    deviations=(
        (
            "The default is what the authors' Long Range Arena code ran, factorised random scores "
            "of rank 32; their mesh-tensorflow code has rank 16."
        ),
        (
            "That code makes scores for a greatest length and cuts them to the input's; here a "
            "layer belongs to one grid, because a column belongs to a place."
        ),
        (
            "Dense scores: that code reshapes [tokens, heads] to [heads, tokens] without "
            "exchanging the axes, so that with several heads rows end up at other tokens and "
            "heads. Here the axes are exchanged; with one head the two are equal."
        ),
        (
            "The mixture with products of queries and keys and the factorised dense scores are "
            "not offered."
        ),
        (
            "Weights that are the same for all items of a batch are multiplied once with the "
            "values of all items; the scores are softmaxed in float32 in half precision."
        ),
    ),
    scaling=(
        "Each grid needs its own layer; the factors grow with the tokens, random scores, and the "
        "weights of every kind, with their square."
    ),
    options=SynthesizerOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=square_projections(2),
    order=lambda _options: 2.0,
    state_floats=state_floats,
    traits=Traits(
        causal=True,
        any_grid=False,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
