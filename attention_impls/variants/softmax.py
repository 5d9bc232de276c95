"""Softmax attention, written as its formula: two products around a softmax.

    O = softmax(Q K^T / sqrt(d)) V

Q, K, V: queries, keys, values [N, d] of one head; the softmax runs over each row, that is over the
keys. The N x N matrix is formed, because that is the mathematics; backends need not form it.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, https://arxiv.org/abs/1706.03762,
equation 1; for images Dosovitskiy et al., 2021, and Touvron et al. (DeiT), 2021.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections, published_inputs
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, NoOptions, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]


class SoftmaxMix(nn.Module):
    """The formula of the module docstring; no parameters."""

    def __init__(self, *, causal: bool) -> None:
        """Build; `causal` gives weight to keys j <= i alone."""
        super().__init__()
        self.causal = causal

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Return O; `x` and `grid` play no part."""
        # scaling q costs N d products where scaling the scores would cost N^2
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores.masked_fill_(later, float("-inf"))
        accumulator = torch.promote_types(q.dtype, torch.float32)
        return scores.softmax(-1, dtype=accumulator).to(q.dtype) @ v


def make(shape: AttentionShape, options: NoOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    return MultiHead(shape, SoftmaxMix(causal=shape.causal), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: NoOptions) -> int:
    """4 B N^2 C: scores and weighted values, 2 B N^2 C each; causal weights are not skipped.

    B batch, N tokens, C channels.
    """
    return 4 * shape.batch * shape.tokens**2 * shape.channels


def state_floats(shape: AttentionShape, _options: NoOptions) -> int:
    """2 N C: every key and every value."""
    return 2 * shape.tokens * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one attention module of DeiT (`qkv`, `proj`) or of PVT (`q`, `kv`, `proj`)."""
    return adopt_projections(official, published_inputs(official), "proj", {})


SPEC = AttentionSpec(
    name="softmax",
    title="Softmax attention",
    family="softmax",
    paper=Paper(
        title="Attention Is All You Need",
        authors=(
            "Ashish Vaswani",
            "Noam Shazeer",
            "Niki Parmar",
            "Jakob Uszkoreit",
            "Llion Jones",
            "Aidan N. Gomez",
            "Łukasz Kaiser",
            "Illia Polosukhin",
        ),
        year=2017,
        venue="NeurIPS",
        url="https://arxiv.org/abs/1706.03762",
        equation="equation 1",
        code="https://github.com/facebookresearch/deit/tree/7e160fe",
    ),
    revision=1,
    formula=r"O = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V",
    deviations=(
        "The queries are scaled instead of the scores: the same function, fewer operations.",
        (
            "In half precision the softmax is computed in float32 and its weights are rounded to "
            "the dtype of the inputs."
        ),
    ),
    scaling="There is nothing to scale; cost and memory grow with the square of the tokens.",
    options=NoOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 2.0,
    state_floats=state_floats,
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
