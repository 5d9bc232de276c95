"""LION: linear attention for all tokens at once whose weights decay with the tokens in between.

    O_i = sum_j w_ij v_j / (sum_j w_ij + epsilon),    w_ij = phi(q_i) . phi(k_j) M_ij / sqrt(d)

q_i, k_j, v_j: query, key and value of one head, each of d numbers; j runs over all tokens. M_ij is
the product of the decays a of the tokens from j, j included, to i, i left out; M_ii = 1:

    selective (LION-S)   a_j = 1 - sigmoid(w . x_j + b), x_j the layer's input; extra tokens have 1
    fixed (LION-D)       a_j = sigmoid(a) for all tokens of a head, so that M_ij = a^|i - j|
    none (LION-lit)      M_ij = 1

phi(x) = (silu(x) + 1/2) / |silu(x) + 1/2|, and elu(x) + 1 without decay; both are positive. It is
two recurrences, one from each end, with a state of d x d numbers, a token's own term counted once;
computed in chunks: linear in the tokens.

Afzal, Abad Rocamora, Candogan, Puigdemont, Tonin, Wu, Shoaran, Cevher, "Linear Attention for
Efficient Bidirectional Sequence Modeling", NeurIPS 2025, https://arxiv.org/abs/2502.16249, section
3.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.decayed_attention import decayed_product, decayed_product_flops
from attention_impls.parts.linear_attention import normalised_product, normalised_product_flops
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]
ByToken = Float[Tensor, "#batch heads tokens 1"]

_EPSILON = 1e-6
"""Added to the sum of the weights of a row, as in the authors' code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LionOptions:
    """Options of LION."""

    decay: Literal["selective", "fixed", "none"] = "selective"
    """What weights decay by: gates computed from x, one learned number a head, or nothing."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""


class LionMix(nn.Module):
    """O of the module docstring.

    Parameters: `gate` (channels to heads) where decays are selective, `decay` (one number a head)
    where they are fixed.
    """

    def __init__(self, shape: AttentionShape, options: LionOptions) -> None:
        """Build for the heads and channels of `shape`; its grid plays no part."""
        super().__init__()
        self.gate = nn.Linear(shape.channels, shape.heads) if options.decay == "selective" else None
        self.decay = nn.Parameter(torch.randn(shape.heads)) if options.decay == "fixed" else None

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:
        """Return O; of the grid only the number of its tokens plays a part."""
        scale = q.shape[-1] ** -0.5
        if self.gate is None and self.decay is None:
            return normalised_product(_shifted_elu(q), _shifted_elu(k), v, _EPSILON / scale)
        wide = torch.promote_types(q.dtype, torch.float32)
        forward, backward = self._decays(x, grid, q.shape[2], wide)
        q, k = _unit_silu(q.to(wide)) * scale, _unit_silu(k.to(wide))
        # a column of ones sums the weights of the row
        extended = F.pad(v.to(wide), (0, 1), value=1.0)
        mixed = decayed_product(q, k, extended, forward, backward)
        return (mixed[..., :-1] / (mixed[..., -1:] + _EPSILON)).to(v.dtype)

    def _decays(
        self, x: Stream, grid: Grid, tokens: int, wide: torch.dtype
    ) -> tuple[ByToken, ByToken]:
        """Return logarithms of the decays on arriving at a token from before and from after it."""
        if self.decay is not None:
            fixed = F.logsigmoid(self.decay.to(wide)).view(1, -1, 1, 1).expand(1, -1, tokens, 1)
            return fixed, fixed
        if self.gate is None:
            raise TypeError("lion: no decays were built")
        # log(1 - sigmoid(z)) is logsigmoid(-z), without the difference
        own = F.logsigmoid(-self.gate(x[:, tokens - grid.tokens :]).to(wide))
        own = F.pad(own, (0, 0, tokens - grid.tokens, 0)).transpose(1, 2).unsqueeze(-1)
        return F.pad(own[:, :, :-1], (0, 0, 1, 0)), F.pad(own[:, :, 1:], (0, 0, 0, 1))


def _shifted_elu(x: Heads) -> Heads:
    return F.elu(x).add_(1)


def _unit_silu(x: Heads) -> Heads:
    shifted = F.silu(x) + 0.5
    return shifted * torch.rsqrt(shifted.square().sum(-1, keepdim=True))


def make(shape: AttentionShape, options: LionOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, LionMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: LionOptions) -> int:
    """2 B n C h + 2 B P C c + 2 B P (C + h) c + 8 B P C (d + 1), the last with more than one chunk.

    B batch, n grid tokens, N tokens rounded up to P in chunks of c <= 64, C channels, d head_dim, h
    heads: gates (selective alone), weights within chunks, their product with v and a column of
    ones, states of both directions and what is read of them. Without decay 4 B N C d + 2 B N C.
    """
    if options.decay == "none":
        return normalised_product_flops(
            shape.batch, shape.heads, shape.tokens, shape.head_dim, causal=False
        )
    gates = 2 * shape.batch * shape.grid.tokens * shape.channels * shape.heads
    mixing = decayed_product_flops(
        shape.batch,
        shape.heads,
        shape.tokens,
        shape.head_dim,
        shape.head_dim + 1,
        directions=2,
        by_channel=False,
    )
    return mixing + (gates if options.decay == "selective" else 0)


def state_floats(shape: AttentionShape, options: LionOptions) -> int:
    """C d + C for each direction, both without decay in one: sums of k v^T and of k, per head."""
    return (1 if options.decay == "none" else 2) * shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `Lion_Attention` with order='Normal'."""
    decays = {"a_i": "decay", "a_i.weight": "gate.weight", "a_i.bias": "gate.bias"}
    return adopt_projections(official, ("qkv",), "proj", decays)


SPEC = AttentionSpec(
    name="lion",
    title="LION",
    family="recurrent",
    paper=Paper(
        title="Linear Attention for Efficient Bidirectional Sequence Modeling",
        authors=(
            "Arshia Afzal",
            "Elias Abad Rocamora",
            "Leyla Naz Candogan",
            "Pol Puigdemont",
            "Francesco Tonin",
            "Yongtao Wu",
            "Mahsa Shoaran",
            "Volkan Cevher",
        ),
        year=2025,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2502.16249",
        equation="section 3; decays and feature maps as in the authors' code",
        code="https://github.com/LIONS-EPFL/LION/blob/"
        "32a0136431dea54a634394df756365919635fe9d/img_classification/lion/models_lion.py",
    ),
    revision=1,
    formula=r"O_i = \frac{\sum_j w_{ij} v_j}{\sum_j w_{ij} + \varepsilon}, \quad"
    r"w_{ij} = \frac{\phi(q_i)^\top \phi(k_j)}{\sqrt d} \prod_{t \in [j, i)} a_t, \quad"
    r"a_t = 1 - \sigma(w^\top x_t + b)",
    deviations=(
        (
            "Selective decays: the mask of a pair holds the key's own decay and not the query's, "
            "whichever comes first, as the authors' code computes it."
        ),
        (
            "The first token has no decay in the authors' code, which always has a class token "
            "there. Here extra tokens have none, and every token of the grid has its own."
        ),
        (
            "The authors train with the full tokens x tokens mask and offer a recurrence and "
            "chunks of 32 keys against all queries for inference. Here chunks hand on a state: the "
            "same function, linear in the tokens, half precision in float32."
        ),
        (
            "The orders that go through the image in snakes from both corners and average two "
            "masks (order='S') are not offered: tokens are taken row by row."
        ),
        "No causal form: it would be the layer that LION generalises.",
    ),
    scaling=(
        "No option depends on the grid; the reach of the decays is in tokens, of which a finer "
        "grid has more in the same part of the image."
    ),
    options=LionOptions(),
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
