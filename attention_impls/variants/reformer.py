"""Reformer: attention within buckets of locality-sensitive hashing, several rounds of it.

    O_i = sum_r softmax_r(L_ri) sum_{j in J_r(i)} softmax_j(s_ij) v_j,   L_ri = log sum_j exp(s_ij)
    s_ij = q_i . q_j / (|q_j| sqrt(d)),   s_ii = -50000

q_i, v_j: query and value of one head, d numbers; the keys are the queries, divided by their length.
Round r gives each token a bucket, argmax over [R_r q_i, -R_r q_i], R_r [N / (2 b), d] Gaussian;
the tokens are sorted by bucket and cut into chunks of b, and J_r(i) holds the tokens of the chunk
that i is in and of the chunk before. Before the first chunk of a round comes the last one of the
round before, before that of the first round the last one of the last. With no more than b tokens
every token sees all others.

Kitaev, Kaiser, Levskaya, "Reformer: The Efficient Transformer", ICLR 2020,
https://arxiv.org/abs/2001.04451, Section 2. Code: lucidrains/reformer-pytorch, after the authors'
trax. Where code and paper differ, see `deviations`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.softmax_rows import softmax_rows_flops
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits, square_projections

Heads = Float[Tensor, "batch heads tokens head_dim"]
Order = Int[Tensor, "batch heads padded"]

_SELF_SCORE = -5e4
"""Score of a token with itself: it sees itself only where it sees nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReformerOptions:
    """Options of Reformer."""

    bucket_tokens: int = 64
    """Tokens b of a chunk, and the mean number in a bucket."""
    rounds: int = 8
    """Rounds of hashing: 8 in the layer, 4 in the published language model."""
    across_buckets: bool = True
    """A token also sees tokens of other buckets in its two chunks."""
    seed: int = 0
    """Seed of the rotations R, which are drawn once for each number of buckets."""
    qkv_bias: bool = True
    """The projections of queries and values have a bias."""

    def __post_init__(self) -> None:
        for name in ("bucket_tokens", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be >= 1")


def is_full(tokens: int, options: ReformerOptions) -> bool:
    """Return whether every token sees all others: no more than one bucket."""
    return tokens <= options.bucket_tokens


def padded_tokens(tokens: int, options: ReformerOptions) -> int:
    """Return the tokens after filling up to pairs of chunks."""
    pair = 2 * options.bucket_tokens
    return -(-tokens // pair) * pair


def rotations(head_dim: int, buckets: int, options: ReformerOptions) -> Tensor:
    """Draw R [head_dim, rounds, buckets / 2], a function of the arguments alone."""
    generator = torch.Generator(device="cpu").manual_seed(options.seed)
    sizes = (head_dim, options.rounds, buckets // 2)
    return torch.randn(sizes, generator=generator, dtype=torch.float32, device="cpu")


class ReformerMix(nn.Module):
    """The formula of the module docstring; no parameters.

    Buffer: `rotations` [head_dim, rounds, buckets / 2], R of the grid it was built for (not saved;
    unless all tokens see all).
    """

    rotations: Tensor | None

    def __init__(self, shape: AttentionShape, options: ReformerOptions) -> None:
        super().__init__()
        self.options = options
        self.built_for = padded_tokens(shape.tokens, options)
        drawn = None
        if not is_full(shape.tokens, options):
            drawn = rotations(shape.head_dim, self.built_for // options.bucket_tokens, options)
            drawn = drawn.to(torch.get_default_device())
        self.register_buffer("rotations", drawn, persistent=False)

    def forward(
        self,
        q: Heads,
        k: Heads,  # noqa: ARG002
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Mix `v`; the keys are the queries, `k` plays no part. Half precision in float32."""
        exact = torch.promote_types(q.dtype, torch.float32)
        mix = self._full if is_full(q.shape[2], self.options) else self._hashed
        return mix(q.to(exact), v.to(exact)).to(q.dtype)

    def _full(self, q: Heads, v: Heads) -> Heads:
        scores = (q * q.shape[-1] ** -0.5) @ F.normalize(q, dim=-1).mT
        scores.diagonal(dim1=-2, dim2=-1).fill_(_SELF_SCORE)
        return scores.softmax(-1) @ v

    def _hashed(self, q: Heads, v: Heads) -> Heads:
        tokens, size = q.shape[2], self.options.bucket_tokens
        padded = padded_tokens(tokens, self.options)
        q, v = (F.pad(t, (0, 0, 0, padded - tokens)) for t in (q, v))
        with torch.no_grad():
            rounds = [torch.sort(buckets, stable=True) for buckets in self._buckets(q)]
        streams = torch.cat((q, v), -1).flatten(0, 2)
        outputs: list[Tensor] = []
        totals: list[Tensor] = []
        for turn, (bucket, order) in enumerate(rounds):
            of_last = rounds[turn - 1]
            places = torch.cat((of_last[1][..., -size:], order), -1)
            # buckets of two rounds are never the same one
            apart = padded if self.options.rounds > 1 else 0
            codes = torch.cat((of_last[0][..., -size:] - apart, bucket), -1)
            seen = _picked(streams, _rows(places, padded))
            out, total = self._chunks(seen, places, codes, tokens)
            back = torch.zeros_like(order).scatter(-1, order, _positions(order))
            rows = _rows(back[..., :tokens], padded)
            outputs.append(_picked(out.flatten(0, 2), rows))
            totals.append(_picked(total.flatten(0, 2), rows))
        shares = torch.cat(totals, -1).softmax(-1).split(1, -1)
        mixed = outputs[0] * shares[0]
        for out, share in zip(outputs[1:], shares[1:], strict=True):
            mixed = mixed + out * share
        return mixed

    def _buckets(self, q: Heads) -> list[Order]:
        """Return the bucket of each token in each round."""
        drawn = self.rotations
        if drawn is None or q.shape[2] != self.built_for:
            count = q.shape[2] // self.options.bucket_tokens
            drawn = rotations(q.shape[-1], count, self.options).to(q.device)
        found: list[Tensor] = []
        for matrix in drawn.to(q.dtype).unbind(1):
            turned = q @ matrix
            positive, negative = turned.max(-1), turned.min(-1)
            opposite = negative.indices + matrix.shape[1]
            found.append(
                torch.where(positive.values >= -negative.values, positive.indices, opposite)
            )
        return found

    def _chunks(
        self,
        streams: Float[Tensor, "batch heads seen two_head_dims"],
        places: Int[Tensor, "batch heads seen"],
        codes: Int[Tensor, "batch heads seen"],
        tokens: int,
    ) -> tuple[Float[Tensor, "batch heads padded head_dim"], Float[Tensor, "batch heads padded 1"]]:
        """Attend in sorted order; return the outputs and the logarithms of the sums.

        Args:
            streams: queries beside values, one chunk more than the round has in front.
            places: where in the sequence they stand.
            codes: their buckets.
            tokens: places from here on hold no token.
        """
        width = streams.shape[-1] // 2
        chunks, place, code = (
            t.unflatten(2, (-1, self.options.bucket_tokens)) for t in (streams, places, codes)
        )
        q, v = chunks.split(width, -1)
        scores = (q[:, :, 1:] * width**-0.5) @ _with_chunk_before(F.normalize(q, dim=-1)).mT
        of_query, of_key = place[:, :, 1:, :, None], _with_chunk_before(place).unsqueeze(-2)
        lowest = torch.finfo(scores.dtype).min
        if places.shape[-1] > tokens:
            scores.masked_fill_(of_key >= tokens, lowest)
        scores.masked_fill_(of_query == of_key, _SELF_SCORE)
        if not self.options.across_buckets:
            others = code[:, :, 1:, :, None] != _with_chunk_before(code).unsqueeze(-2)
            scores.masked_fill_(others, lowest)
        total = scores.logsumexp(-1, keepdim=True)
        out = (scores - total).exp() @ _with_chunk_before(v)
        return out.flatten(2, 3), total.flatten(2, 3)


def _with_chunk_before(chunks: Tensor) -> Tensor:
    """[batch, heads, 1 + chunks, size, ...] -> [batch, heads, chunks, 2 size, ...]."""
    return torch.cat((chunks[:, :, 1:], chunks[:, :, :-1]), 3)


def _positions(order: Order) -> Order:
    return torch.arange(order.shape[-1], device=order.device).expand_as(order)


def _rows(
    places: Int[Tensor, "batch heads places"], padded: int
) -> Int[Tensor, "batch heads places"]:
    """Numbers of rows where the sequences of all heads lie one after the other."""
    batch, heads, _ = places.shape
    first = torch.arange(batch * heads, device=places.device) * padded
    return places + first.view(batch, heads, 1)


def _picked(
    flat: Float[Tensor, "rows width"], rows: Int[Tensor, "batch heads places"]
) -> Float[Tensor, "batch heads places width"]:
    return flat.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def make(shape: AttentionShape, options: ReformerOptions) -> MultiHead:
    """Build the layer: projections of queries and values, the mix, the output projection."""
    mix = ReformerMix(shape, options)
    return MultiHead(shape, mix, qkv_bias=options.qkv_bias, streams="qv")


def core_flops(shape: AttentionShape, options: ReformerOptions) -> int:
    """B C m (P^2 / b + 8 P b): hashing, and attention of each token to 2 b tokens in each round.

    B batch, N tokens, C channels, m rounds, b tokens of a chunk, P: N rounded up to pairs of
    chunks. There are P / b buckets, so that hashing is quadratic in tokens. 4 B N^2 C for N <= b.
    """
    matrices, width, size = shape.batch * shape.heads, shape.head_dim, options.bucket_tokens
    if is_full(shape.tokens, options):
        return softmax_rows_flops(matrices, shape.tokens, shape.tokens, width)
    padded, rounds = padded_tokens(shape.tokens, options), options.rounds
    hashing = matrices * rounds * padded * width * (padded // size)
    return hashing + rounds * softmax_rows_flops(matrices, padded, 2 * size, width)


def state_floats(shape: AttentionShape, _options: ReformerOptions) -> int:
    """2 N C: every query, which is its key, and every value."""
    return 2 * shape.tokens * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the names of lucidrains' LSHSelfAttention onto ours."""
    return adopt_projections(official, ("toqk", "tov"), "to_out", {})


SPEC = AttentionSpec(
    name="reformer",
    title="Reformer",
    family="sparse",
    paper=Paper(
        title="Reformer: The Efficient Transformer",
        authors=("Nikita Kitaev", "Łukasz Kaiser", "Anselm Levskaya"),
        year=2020,
        venue="ICLR",
        url="https://arxiv.org/abs/2001.04451",
        equation="Section 2: locality-sensitive hashing attention, several rounds",
        code=(
            "https://github.com/lucidrains/reformer-pytorch/tree/"
            "66a19b6caf481a880c97d331306aba55d2ae4b9c"
        ),
    ),
    revision=1,
    formula=(
        r"O_i = \sum_r \mathrm{softmax}_r(L_{ri}) \sum_{j \in J_r(i)} \mathrm{softmax}_j(s_{ij})"
        r"\, v_j,\quad s_{ij} = \frac{q_i^\top q_j}{\lVert q_j \rVert \sqrt d},\;"
        r" L_{ri} = \log \sum_{j \in J_r(i)} e^{s_{ij}}"
    ),
    deviations=(
        (
            "The code draws rotations anew in every call, in evaluation too; here they are drawn "
            "once from a seed, so that two calls give the same bits."
        ),
        (
            "As in the code the chunk before the first one of a round is the last one of the round "
            "before, whose tokens have nothing to do with the bucket; the paper does not say."
        ),
        (
            "A pair of tokens that several rounds bring together counts several times, the code's "
            "default; the paper's correction by the number of rounds is not included."
        ),
        (
            "The number of buckets is N / b, as in the code, so that hashing takes N^2 / b "
            "products; the original code can factorise buckets."
        ),
        (
            "Tokens are filled up with zeros to whole pairs of chunks and hidden, as the code's "
            "`Autopadder` does; with no more than b tokens all see all, as in the code."
        ),
        (
            "The published causal mask hides later keys, but chunks are cut between all tokens, so "
            "that an output depends on later ones; it is refused. Reversible layers, chunked "
            "feed-forward layers and positions are not attention and not included."
        ),
        (
            "Projections have no bias in the code; qkv_bias=True adds one, as other variants have. "
            "Half precision is computed in float32."
        ),
    ),
    scaling=(
        "A chunk keeps its 64 tokens, so that attention is linear in tokens; hashing into N / 64 "
        "buckets grows with their square."
    ),
    options=ReformerOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=square_projections(3),
    order=lambda _options: 2.0,
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
        continuous=False,
    ),
    adopt_official=adopt_official,
)
