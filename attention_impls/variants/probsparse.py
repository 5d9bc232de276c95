"""ProbSparse attention (Informer): softmax attention for a few queries, the mean for the others.

    O_i = softmax(q_i K^T / sqrt(d)) V  for the u queries with the largest M_i,  mean(V)  otherwise
    M_i = max_{j in S(i)} q_i . k_j - (1 / N) sum_{j in S(i)} q_i . k_j

q_i: query of one head, d numbers; K, V: keys and values [N, d]; S(i): u keys drawn at random with
repetitions, others for each i, the same for all heads; u = c ceil(ln N), at most N.

Zhou et al., "Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting",
AAAI 2021, https://arxiv.org/abs/2012.07436, equations 3 and 4. Where code and paper differ, see
`deviations`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.softmax_rows import softmax_rows, softmax_rows_flops
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

_SEGMENT_TOKENS = 128
"""Queries whose sampled keys are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbSparseOptions:
    """Options of ProbSparse attention."""

    factor: int = 5
    """c: how many queries attend, and how many keys decide which, in units of ln N."""
    divisor: Literal["keys", "samples"] = "keys"
    """What the sum in M is divided by: N, as in the authors' code, or the samples, their mean."""
    seed: int = 0
    """Seed of the sampled keys, which are drawn once for each number of tokens."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}, must be >= 1")


def sample_count(tokens: int, options: ProbSparseOptions) -> int:
    """Return u, the number of sampled keys and of queries that attend; at least 1."""
    return min(tokens, max(1, options.factor * math.ceil(math.log(tokens))))


def sampled_keys(tokens: int, options: ProbSparseOptions) -> Int[Tensor, "tokens samples"]:
    """Return S for each query, a function of the arguments alone."""
    generator = torch.Generator(device="cpu").manual_seed(options.seed)
    sizes = (tokens, sample_count(tokens, options))
    return torch.randint(tokens, sizes, generator=generator, device="cpu")


class ProbSparseMix(nn.Module):
    """The formula of the module docstring; no parameters.

    Buffer: `samples` [N, u], S of the grid it was built for (not saved).
    """

    samples: Int[Tensor, "built_for samples"]

    def __init__(self, shape: AttentionShape, options: ProbSparseOptions) -> None:
        super().__init__()
        self.options = options
        samples = sampled_keys(shape.tokens, options).to(torch.get_default_device())
        self.register_buffer("samples", samples, persistent=False)

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend. M is float32 for half-precision inputs: it decides, and near ties are many."""
        batch, heads, tokens, head_dim = q.shape
        with torch.no_grad():
            chosen = self._measure(q, k).topk(sample_count(tokens, self.options), sorted=False)
        places = chosen.indices.unsqueeze(-1).expand(-1, -1, -1, head_dim)
        attended = softmax_rows(q.gather(2, places), k, v)
        exact = torch.promote_types(v.dtype, torch.float32)
        mean = v.mean(2, keepdim=True, dtype=exact).to(v.dtype)
        return mean.expand(batch, heads, tokens, head_dim).scatter(2, places, attended)

    def _measure(self, q: Heads, k: Heads) -> Float[Tensor, "batch heads tokens"]:
        """Return M."""
        batch, heads, tokens, head_dim = q.shape
        samples = self.samples
        if tokens != samples.shape[0]:
            samples = sampled_keys(tokens, self.options).to(q.device)
        exact = torch.promote_types(q.dtype, torch.float32)
        divisor = tokens if self.options.divisor == "keys" else samples.shape[1]
        q = q.to(exact)
        # rows of one table are gathered several times as fast as those of many
        table = k.to(exact).reshape(-1, head_dim)
        first = torch.arange(0, table.shape[0], tokens, device=k.device).view(-1, 1, 1)
        found: list[Tensor] = []
        for start in range(0, tokens, _SEGMENT_TOKENS):
            part = samples[start : start + _SEGMENT_TOKENS]
            keys = table.index_select(0, (part + first).flatten())
            keys = keys.view(batch, heads, *part.shape, head_dim)
            queries = q[:, :, start : start + _SEGMENT_TOKENS].unsqueeze(-2)
            # a row times a matrix takes half the time of a matrix times a column
            scores = (queries @ keys.mT).squeeze(-2)
            found.append(scores.amax(-1) - scores.sum(-1) / divisor)
        return torch.cat(found, 2)


def make(shape: AttentionShape, options: ProbSparseOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    return MultiHead(shape, ProbSparseMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: ProbSparseOptions) -> int:
    """2 B N u C + 4 B u N C: M, and softmax attention of u queries; u = c ceil(ln N).

    B batch, N tokens, C channels.
    """
    count = sample_count(shape.tokens, options)
    matrices, width = shape.batch * shape.heads, shape.head_dim
    measure = 2 * matrices * shape.tokens * count * width
    return measure + softmax_rows_flops(matrices, count, shape.tokens, width)


def order(_options: ProbSparseOptions) -> float:
    """Exponent in tokens: N ln N, which between 2^24 and 2^26 tokens grows as N^1.08."""
    return 1.08


def state_floats(shape: AttentionShape, _options: ProbSparseOptions) -> int:
    """2 N C + C: every key and every value, and the mean of the values."""
    return (2 * shape.tokens + 1) * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the authors' `AttentionLayer` around `ProbAttention`."""
    inputs = ("query_projection", "key_projection", "value_projection")
    return adopt_projections(official, inputs, "out_projection", {})


SPEC = AttentionSpec(
    name="probsparse",
    title="ProbSparse",
    family="sparse",
    paper=Paper(
        title=("Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting"),
        authors=(
            "Haoyi Zhou",
            "Shanghang Zhang",
            "Jieqi Peng",
            "Shuai Zhang",
            "Jianxin Li",
            "Hui Xiong",
            "Wancai Zhang",
        ),
        year=2021,
        venue="AAAI",
        url="https://arxiv.org/abs/2012.07436",
        equation="equations 3 and 4: sparsity measurement and ProbSparse self-attention",
        code=(
            "https://github.com/zhouhaoyi/Informer2020/tree/"
            "29f2a739226a509202a092b464163da81fa74960"
        ),
    ),
    revision=1,
    formula=(
        r"O_i = \mathrm{softmax}\!\left(\frac{q_i^\top K^\top}{\sqrt d}\right) V"
        r"\ \text{if}\ M_i\ \text{is among the}\ u\ \text{largest, else}\ \bar v,\quad"
        r" M_i = \max_{j \in S(i)} q_i^\top k_j - \frac1N \sum_{j \in S(i)} q_i^\top k_j"
    ),
    deviations=(
        (
            "The paper's measure takes the mean over the samples; the authors' code divides their "
            "sum by the number of keys, which is the default."
        ),
        (
            "The authors' code samples keys anew in every call, in evaluation too; here they are "
            "drawn once from a seed, so that two calls give the same bits."
        ),
        (
            "The published masked form is no causal form: which queries attend is decided by "
            "looking at later keys and later queries. It is refused."
        ),
        (
            "The measure is not differentiated; it decides between queries and has no gradient in "
            "the authors' code either. It is computed for 128 queries at a time and in float32 "
            "for half-precision inputs."
        ),
    ),
    scaling=("The factor c stays 5; the queries that attend grow with ln N, and cost with N ln N."),
    options=ProbSparseOptions(),
    make=make,
    core_flops=core_flops,
    order=order,
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
