"""Sigmoid attention: each weight is a sigmoid of its own score; rows are not normalised.

    O = sigma(Q K^T / sqrt(d) + b) V,    sigma(x) = 1 / (1 + exp(-x)),    b = -log N

Q, K, V: queries, keys, values [N, d] of one head; sigma works on each score alone; b: a number, by
default that of which N weights sum to about 1 while the scores are small. The N x N matrix is
formed, because that is the mathematics. With `qk_norm` queries and keys pass through a LayerNorm
over the d channels first.

Ramapuram, Danieli, Dhekane, Weers, Busbridge, Ablin, Likhomanenko, Digani, Gu, Shidani, Webb,
"Theory, Analysis, and Best Practices for Sigmoid Self-Attention", ICLR 2025,
https://arxiv.org/abs/2409.04431, section 2.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmoidOptions:
    """Options of sigmoid attention."""

    bias: int | float | None = None
    """b, added to every score; None: -log of the number of tokens."""
    qk_norm: bool = False
    """Queries and keys are normalised over the channels of a head, with learned weights."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.bias is not None and not math.isfinite(self.bias):
            raise ValueError(f"bias is {self.bias}, must be a finite number, or None for -log N")


class SigmoidMix(nn.Module):
    """The formula of the module docstring.

    Parameters, if `qk_norm`: `query_norm` and `key_norm`. Buffer, if b is given: `bias` [1].
    """

    def __init__(self, shape: AttentionShape, options: SigmoidOptions) -> None:
        """Build; a causal form takes the N of b from `shape`, otherwise each call does."""
        super().__init__()
        self.causal = shape.causal
        self.built_for = shape.tokens if shape.causal else None
        self.bias: Tensor | None
        self.register_buffer(
            "bias", None if options.bias is None else torch.tensor([float(options.bias)])
        )
        self.query_norm, self.key_norm = (
            nn.LayerNorm(shape.head_dim) if options.qk_norm else nn.Identity() for _ in "qk"
        )

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Return O; `x` and `grid` play no part."""
        tokens = q.shape[2]
        bias = -math.log(self.built_for or tokens) if self.bias is None else self.bias
        q, k = self.query_norm(q), self.key_norm(k)
        accumulator = torch.promote_types(q.dtype, torch.float32)
        # scaling q costs N d products where scaling the scores would cost N^2
        scores = ((q * q.shape[-1] ** -0.5) @ k.mT).to(accumulator)
        scores = scores.add_(bias)
        if self.causal:
            later = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill_(later, float("-inf"))
        return scores.sigmoid_().to(v.dtype) @ v


def make(shape: AttentionShape, options: SigmoidOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, SigmoidMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: SigmoidOptions) -> int:
    """4 B N^2 C: scores and weighted values, 2 B N^2 C each; causal weights are not skipped.

    B batch, N tokens, C channels.
    """
    return 4 * shape.batch * shape.tokens**2 * shape.channels


def state_floats(shape: AttentionShape, _options: SigmoidOptions) -> int:
    """2 N C: every key and every value."""
    return 2 * shape.tokens * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `Attention` of the authors' simulator with the sigmoid activation.

    Its number b has a place only in a layer that was built with a number for `bias`.

    Raises:
        ValueError: its scores have a temperature, which no option stands for.
    """
    rest = dict(official)
    temperature = rest.pop("attn_temp", None)
    if temperature is not None and temperature.any():
        raise ValueError(
            f"attn_temp is {temperature.tolist()}, must be 0: scores are divided by sqrt(d) alone"
        )
    norms = {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in (("q_norm", "query_norm"), ("k_norm", "key_norm"))
        for kind in ("weight", "bias")
    }
    return adopt_projections(rest, ("qkv",), "proj", norms | {"attn_bias": "bias"})


SPEC = AttentionSpec(
    name="sigmoid",
    title="Sigmoid attention",
    family="pairwise",
    paper=Paper(
        title="Theory, Analysis, and Best Practices for Sigmoid Self-Attention",
        authors=(
            "Jason Ramapuram",
            "Federico Danieli",
            "Eeshan Dhekane",
            "Floris Weers",
            "Dan Busbridge",
            "Pierre Ablin",
            "Tatiana Likhomanenko",
            "Jagrit Digani",
            "Zijin Gu",
            "Amitis Shidani",
            "Russ Webb",
        ),
        year=2025,
        venue="ICLR",
        url="https://arxiv.org/abs/2409.04431",
        equation="section 2, sigmoid attention with b = -log N",
        code="https://github.com/apple/ml-sigmoid-attention/blob/"
        "9273b493f234ccbb184cab1131010dd0e965d8ce/attention_simulator/src/attention_simulator/"
        "layers/attention.py",
    ),
    revision=1,
    formula=r"O = \sigma\!\left(\frac{Q K^\top}{\sqrt{d}} + b\right) V, \quad"
    r" \sigma(x) = \frac{1}{1 + e^{-x}}, \quad b = -\log N",
    deviations=(
        (
            "b is -log N of the call by default, as the paper advises, class tokens included; the "
            "authors' module takes a number and has 0 if none is given."
        ),
        (
            "In the causal form b is one number for all tokens, -log of the length the layer was "
            "built for, as in the authors' language models (-7.62 for 2,048 tokens): a token's "
            "output does not change as the sequence grows."
        ),
        (
            "The queries are scaled instead of the scores: the same function, fewer operations. "
            "The authors' temperature on the scores, 1 unless it is set, has no option."
        ),
        (
            "LayerScale and the normalisation after the mix, with which the paper trains stably, "
            "belong to the block."
        ),
        (
            "In half precision the sigmoid is computed in float32 and its weights are rounded to "
            "the dtype of the inputs."
        ),
    ),
    scaling="b follows the number of tokens, so that rows keep their sum; cost and memory grow "
    "with the square of the tokens.",
    options=SigmoidOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 2.0,
    state_floats=state_floats,
    traits=Traits(
        causal=True,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=True,
        rows_sum_to_one=False,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
