"""Gated linear attention (GLA): linear attention whose state forgets by channel, as x decides.

    S_t = diag(a_t) S_{t-1} + k_t v_t^T,    O_t = S_t^T q_t / sqrt(d)
    a_t = sigmoid(W_2 W_1 x_t + b)^(1/16),    y = W_o (norm(O) * silu(W_g x))

q_t, k_t, v_t: query, key and value of one head, each of d numbers; x_t the layer's input; a_t in
(0, 1), one number a channel of the keys, from a map through 16 numbers; norm divides the d numbers
of a head by the root of their mean square and multiplies by learned weights. This is the causal
form. All tokens: the scan from the first token and the scan from the last, with the same weights,
averaged; a token's own term is in both. Computed in chunks: linear in the tokens.

Yang, Wang, Shen, Panda, Kim, "Gated Linear Attention Transformers with Hardware-Efficient
Training", ICML 2024, https://arxiv.org/abs/2312.06635, equations 3 and 4 and section 4. Both ways,
for images: Liao, Wang, Zhu, Zhang, Huang, "ViG: Linear-complexity Visual Sequence Learning with
Gated Linear Attention", 2024, https://arxiv.org/abs/2405.18425.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.parts.decayed_attention import (
    decayed_product,
    decayed_product_flops,
    own_products_flops,
)
from attention_impls.parts.gated_heads import (
    GatedHeads,
    HeadNorm,
    adopt_gated_heads,
    gated_projection_flops,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedLinearOptions:
    """Options of gated linear attention."""

    gate_rank: int = 16
    """Numbers that the map from x to the decays goes through."""
    gate_divisor: int | float = 16
    """The root that is taken of the gate: larger remembers longer."""
    qkv_bias: bool = False
    """The projections of queries, keys, values and output gate have a bias."""

    def __post_init__(self) -> None:
        if self.gate_rank < 1:
            raise ValueError(f"gate_rank is {self.gate_rank}, must be >= 1")
        if not self.gate_divisor > 0:
            raise ValueError(f"gate_divisor is {self.gate_divisor}, must be > 0")


class GatedLinearMix(nn.Module):
    """O of the module docstring. Parameters: `decay`, the two maps from x to the decays."""

    def __init__(self, shape: AttentionShape, options: GatedLinearOptions) -> None:
        """Build for the heads and channels of `shape`; its grid plays no part."""
        super().__init__()
        self.causal = shape.causal
        self.divisor = options.gate_divisor
        self.decay = nn.Sequential(
            nn.Linear(shape.channels, options.gate_rank, bias=False),
            nn.Linear(options.gate_rank, shape.channels),
        )

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return O; `grid` plays no part, tokens are taken in their order."""
        wide = torch.promote_types(q.dtype, torch.float32)
        gate = F.logsigmoid(self.decay(x).to(wide)) / self.divisor
        logarithms = gate.view(*gate.shape[:2], *q.shape[1::2]).transpose(1, 2)
        q, k = q.to(wide), k.to(wide)
        if self.causal:
            return decayed_product(q * q.shape[-1] ** -0.5, k, v, logarithms)
        q = q * (0.5 * q.shape[-1] ** -0.5)
        # the product counts a token's own term once, the mean of two scans twice
        own = (q * k).sum(-1, keepdim=True) * v
        return decayed_product(q, k, v, logarithms, logarithms).add(own).to(v.dtype)


def make(shape: AttentionShape, options: GatedLinearOptions) -> GatedHeads:
    """Build the layer."""
    norm = HeadNorm(shape, weights="head_dim")
    return GatedHeads(shape, GatedLinearMix(shape, options), norm, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: GatedLinearOptions) -> int:
    """4 B N C r + 2 B P C (c - 1) + 2 B P C c + 8 B P C d + 2 B (P + N) C.

    B batch, N tokens rounded up to P in chunks of c <= 64 (a power of 2), C channels, d head_dim, r
    gate_rank: the decays; weights within chunks, both directions, their product with v; states of
    both directions and what is read of them, with more than one chunk; and each token's own term,
    the part that is `uncounted`. Causal, the second and the fourth are halved and the N of the last
    is 0.
    """
    gates = 4 * shape.batch * shape.tokens * shape.channels * options.gate_rank
    mixing = decayed_product_flops(
        shape.batch,
        shape.heads,
        shape.tokens,
        shape.head_dim,
        shape.head_dim,
        directions=1 if shape.causal else 2,
        by_channel=True,
    )
    return gates + mixing + uncounted(shape, options)[0]


def uncounted(shape: AttentionShape, _options: GatedLinearOptions) -> tuple[int, str]:
    """2 B P C, and 2 B N C unless causal: products of queries with their own keys."""
    padded = own_products_flops(shape.batch, shape.heads, shape.tokens, shape.head_dim)
    again = 0 if shape.causal else 2 * shape.batch * shape.tokens * shape.channels
    why = "Each query's product with its own key is written as a product and a sum over channels."
    return padded + again, why


def state_floats(shape: AttentionShape, _options: GatedLinearOptions) -> int:
    """C d for each direction: the decayed sum of k v^T, per head."""
    return (1 if shape.causal else 2) * shape.channels * shape.head_dim


def own_limits(shape: AttentionShape, _options: GatedLinearOptions) -> tuple[str, ...]:
    """A head of one channel has no decay by channel."""
    if shape.head_dim < 2:
        return ("head_dim is 1; decays by channel need at least 2",)
    return ()


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `GatedLinearAttention` of fla-org/flash-linear-attention with expand_k=1."""
    decays = ("0.weight", "1.weight", "1.bias")
    return adopt_gated_heads(
        official,
        inputs=("q_proj", "k_proj", "v_proj"),
        gate="g_proj",
        out="o_proj",
        norm="g_norm_swish_gate.weight",
        mix={f"gk_proj.{name}": f"decay.{name}" for name in decays},
    )


SPEC = AttentionSpec(
    name="gated_linear",
    title="Gated linear attention",
    family="recurrent",
    paper=Paper(
        title="Gated Linear Attention Transformers with Hardware-Efficient Training",
        authors=("Songlin Yang", "Bailin Wang", "Yikang Shen", "Rameswar Panda", "Yoon Kim"),
        year=2024,
        venue="ICML",
        url="https://arxiv.org/abs/2312.06635",
        equation="equations 3 and 4, gates as in section 4.4",
        code="https://github.com/fla-org/flash-linear-attention/blob/"
        "bc3b101dcb713ddc5bd8924b66754eb68b5ccf89/fla/layers/gla.py",
    ),
    revision=1,
    formula=r"S_t = \mathrm{diag}(a_t)\, S_{t-1} + k_t v_t^\top, \quad"
    r"O_t = \frac{S_t^\top q_t}{\sqrt d}, \quad a_t = \sigma(W_2 W_1 x_t + b)^{1/16}, \quad"
    r"y = W_o\,(\mathrm{norm}(O) \odot \mathrm{silu}(W_g x))",
    deviations=(
        (
            "The paper is causal. Without causal=True the layer runs the scan both ways with the "
            "same weights and averages, so that causal weights load. ViG, which does so for "
            "images, computes gates of their own for the way back, and adds a convolution."
        ),
        (
            "Keys are as wide as values; the authors' models have keys of half the width "
            "(expand_k=0.5), and so half the state."
        ),
        (
            "The authors' kernels compute blocks of 16 tokens within a chunk one product at a "
            "time. Here weights within a chunk are made from blocks that double from 1 to 64: a "
            "pair across the border of two halves decays to the border and from it, so no "
            "exponent is positive and all but a token's own term is a product of matrices."
        ),
        "The published output projection has no bias; here it has one, as in other variants.",
    ),
    scaling=(
        "No option depends on the grid; the reach of the decays is in tokens, of which a finer "
        "grid has more in the same part of the image."
    ),
    options=GatedLinearOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=gated_projection_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    own_limits=own_limits,
    uncounted=uncounted,
    traits=Traits(
        causal=True,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
