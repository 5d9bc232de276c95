"""Mamba-2 (state space duality): a state that decays and takes in as much as each token decides.

    S_t = a_t S_{t-1} + D_t k_t v_t^T,    O_t = S_t^T q_t + e v_t
    D_t = softplus(W_d x_t + c),    a_t = exp(-exp(A) D_t),    y = W_o norm(O * silu(W_g x))

q_t, k_t, v_t (C, B and X in the paper): query, key and value of one head, each of d numbers, after
a causal convolution over 4 tokens and silu; x_t the layer's input; a_t in (0, 1) and the step D_t,
one number a token and head; A, c, e learned, one number a head; norm divides the d numbers of a
head by the root of their mean square and multiplies by learned weights. This is the causal form;
written out it is masked attention without softmax, O_i = sum_{j <= i} a_{j+1} ... a_i D_j (q_i .
k_j) v_j + e v_i. All tokens: the scan from the first token and the scan from the last, convolution
included, with the same weights, averaged. Computed in chunks: linear in the tokens.

Dao, Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured
State Space Duality", ICML 2024, https://arxiv.org/abs/2405.21060, listing 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.parts.decayed_attention import decayed_product, decayed_product_flops
from attention_impls.parts.gated_heads import GatedHeads, HeadNorm, gated_projection_flops
from attention_impls.parts.selective_decay import SelectiveDecay, selective_decay_flops
from attention_impls.parts.short_convolution import ShortConvolution, short_convolution_flops
from attention_impls.parts.two_scans import both_ways, mean_of_both_ways
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]

_RATES = (1.0, 16.0)
"""exp(A) is uniform between these at the start of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Options:
    """Options of Mamba-2."""

    conv_size: int = 4
    """Tokens that the convolution of queries, keys and values sees; 0: silu alone."""
    qkv_bias: bool = False
    """The projections of queries, keys, values and output gate have a bias."""

    def __post_init__(self) -> None:
        if self.conv_size < 0:
            raise ValueError(f"conv_size is {self.conv_size}, must be >= 0")


class Mamba2Mix(nn.Module):
    """O of the module docstring. Parameters: `conv`, `decay` (W_d, c, A), `own` (e)."""

    def __init__(self, shape: AttentionShape, options: Mamba2Options) -> None:
        """Build for the heads and channels of `shape`; its grid plays no part."""
        super().__init__()
        self.causal = shape.causal
        self.conv = ShortConvolution(shape, size=options.conv_size, bias=True)
        self.decay = SelectiveDecay(shape, rates=_RATES)
        self.own = nn.Parameter(torch.ones(shape.heads))

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return O; `grid` plays no part, tokens are taken in their order."""
        step, decay = self.decay(x)
        if not self.causal:
            q, k, v, step, decay = (both_ways(t) for t in (q, k, v, step, decay))
        dtype = v.dtype
        q, k, v = self.conv(q, k, v)
        v = v.to(decay.dtype)
        out = decayed_product(q, k, v * step, decay)
        out = torch.addcmul(out, v, self.own.to(v.dtype).view(-1, 1, 1))
        return (out if self.causal else mean_of_both_ways(out)).to(dtype)


def make(shape: AttentionShape, options: Mamba2Options) -> GatedHeads:
    """Build the layer."""
    norm = HeadNorm(shape, weights="channels", gate_first=True)
    return GatedHeads(shape, Mamba2Mix(shape, options), norm, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: Mamba2Options) -> int:
    """2 B N C h + 2 (6 B N C s + 4 B P C c + 4 B P C d), P C d with more than one chunk alone.

    B batch, N tokens rounded up to P in chunks of c <= 64, C channels, d head_dim, h heads, s
    conv_size. The steps; then for each direction (causal: one) the convolutions, weights within
    chunks and their product with v, states and what is read of them.
    """
    convolution = short_convolution_flops(
        shape.batch, shape.tokens, shape.channels, options.conv_size
    )
    scan = decayed_product_flops(
        shape.batch,
        shape.heads,
        shape.tokens,
        shape.head_dim,
        shape.head_dim,
        directions=1,
        by_channel=False,
    )
    return selective_decay_flops(shape) + _directions(shape) * (convolution + scan)


def state_floats(shape: AttentionShape, _options: Mamba2Options) -> int:
    """C d for each direction: S, per head; the few tokens of the convolution are not counted."""
    return _directions(shape) * shape.channels * shape.head_dim


def _directions(shape: AttentionShape) -> int:
    return 1 if shape.causal else 2


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `Mamba2` of state-spaces/mamba with expand=1, ngroups=heads, d_state=headdim.

    Its `in_proj` holds gate, values, keys, queries and steps in this order, and its `conv1d`
    values, keys and queries.
    """
    channels = official["norm.weight"].shape[0]
    gate, v, k, q, step = _blocks(official["in_proj.weight"], channels)
    adopted = {
        "qkv.weight": torch.cat((q, k, v)),
        "gate.weight": gate,
        "mix.decay.step.weight": step,
    }
    for kind in ("weight", "bias"):
        if f"conv1d.{kind}" in official:
            v, k, q, *_ = _blocks(official[f"conv1d.{kind}"], channels)
            adopted[f"mix.conv.{kind}"] = torch.cat((q, k, v))
    places = {
        "out_proj.weight": "out.weight",
        "norm.weight": "norm.weight",
        "D": "mix.own",
        "dt_bias": "mix.decay.step_bias",
        "A_log": "mix.decay.log_rate",
    }
    known = {"in_proj.weight", "conv1d.weight", "conv1d.bias", *places}
    if unknown := sorted(set(official) - known):
        raise KeyError(f"no place for the published parameters {', '.join(unknown)}")
    return {**adopted, **{ours: official[name] for name, ours in places.items()}}


def _blocks(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Four blocks of `size` rows, and the rest."""
    return (*(rows[i * size : (i + 1) * size] for i in range(4)), rows[4 * size :])


SPEC = AttentionSpec(
    name="mamba2",
    title="Mamba-2",
    family="recurrent",
    paper=Paper(
        title="Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
        "Structured State Space Duality",
        authors=("Tri Dao", "Albert Gu"),
        year=2024,
        venue="ICML",
        url="https://arxiv.org/abs/2405.21060",
        equation="sections 5 and 6, listing 1",
        code="https://github.com/state-spaces/mamba/blob/"
        "e9594ce1c732d97440f0332fdc43170a2294dbfa/mamba_ssm/modules/mamba2.py",
    ),
    revision=1,
    formula=r"S_t = a_t S_{t-1} + \Delta_t\, k_t v_t^\top, \quad O_t = S_t^\top q_t + e\, v_t,"
    r"\quad \Delta_t = \mathrm{softplus}(W_\Delta x_t + c), \quad a_t = e^{-e^A \Delta_t}",
    deviations=(
        (
            "The paper is causal. Without causal=True the scan, convolution included, runs both "
            "ways with the same weights and is averaged, so that causal weights load. Hydra's "
            "quasi-separable form shifts both scans by a token, has queries, keys and steps of "
            "their own for the way back and a convolution that looks both ways: it is not this."
        ),
        (
            "Inner channels are as many as the layer's (published expand=2), the state has "
            "head_dim numbers a channel (published d_state=128), and every head has queries and "
            "keys of its own (published: one for all heads, ngroups=1); the norm runs over a "
            "group, so here over a head. With these arguments the published module is this layer."
        ),
        (
            "Computed in chunks of at most 64 tokens (published 256), the states handed on one "
            "chunk after the other; half precision in float32."
        ),
        (
            "Steps have no upper or lower limit, as by default in the authors' code; the output "
            "projection has a bias, as in other variants."
        ),
    ),
    scaling=(
        "No option depends on the grid; the convolution and the reach of the decays are in "
        "tokens, of which a finer grid has more in the same part of the image."
    ),
    options=Mamba2Options(),
    make=make,
    core_flops=core_flops,
    projection_flops=gated_projection_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
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
