"""Gated delta rule (Gated DeltaNet): a state that forgets, and overwrites what a key held before.

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,    O_t = S_t^T q_t / sqrt(d)
    a_t = exp(-exp(A) softplus(W_a x_t + c)),    b_t = sigmoid(W_b x_t)
    y = W_o (norm(O) * silu(W_g x))

q_t, k_t, v_t: query, key and value of one head, each of d numbers, after a causal convolution over
4 tokens and silu, q and k divided by their length; x_t the layer's input; a_t, b_t in (0, 1), one
number a token and head; norm divides the d numbers of a head by the root of their mean square and
multiplies by learned weights. This is the causal form. All tokens: the scan from the first token
and the scan from the last, convolution included, with the same weights, averaged.

Computed in chunks of c tokens: with F_t the sum of log a up to t within the chunk,

    (I + T) U = [b_i v_i, b_i exp(F_i) k_i],    T_ij = b_i exp(F_i - F_j) (k_i . k_j) for j < i

gives the values that the chunk writes, U_1 - U_2 S, for any state S that it starts from.

Yang, Kautz, Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule", ICLR 2025,
https://arxiv.org/abs/2412.06464, equation 10 and section 3.3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.parts.chunks import chunks_of, in_chunks
from attention_impls.parts.gated_heads import (
    GatedHeads,
    HeadNorm,
    adopt_gated_heads,
    gated_projection_flops,
)
from attention_impls.parts.selective_decay import SelectiveDecay, selective_decay_flops
from attention_impls.parts.short_convolution import ShortConvolution, short_convolution_flops
from attention_impls.parts.two_scans import both_ways, mean_of_both_ways
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
ByToken = Float[Tensor, "batch heads tokens 1"]
Stream = Float[Tensor, "batch tokens channels"]

_RATES = (0.0, 16.0)
"""exp(A) is uniform between these at the start of training."""
_EPSILON = 1e-6
"""Added to the squared length of q and k, as in the authors' code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaOptions:
    """Options of the gated delta rule."""

    conv_size: int = 4
    """Tokens that the convolution of queries, keys and values sees; 0: silu alone."""
    qkv_bias: bool = False
    """The projections of queries, keys, values and output gate have a bias."""

    def __post_init__(self) -> None:
        if self.conv_size < 0:
            raise ValueError(f"conv_size is {self.conv_size}, must be >= 0")


class GatedDeltaMix(nn.Module):
    """O of the module docstring. Parameters: `conv`, `decay` (a), `write` (b)."""

    def __init__(self, shape: AttentionShape, options: GatedDeltaOptions) -> None:
        """Build for the heads and channels of `shape`; its grid plays no part."""
        super().__init__()
        self.causal = shape.causal
        self.conv = ShortConvolution(shape, size=options.conv_size, bias=False)
        self.decay = SelectiveDecay(shape, rates=_RATES)
        self.write = nn.Linear(shape.channels, shape.heads, bias=False)

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return O; `grid` plays no part, tokens are taken in their order."""
        _, decay = self.decay(x)
        write = self.write(x).to(decay.dtype).sigmoid().transpose(1, 2).unsqueeze(-1)
        if not self.causal:
            q, k, v, decay, write = (both_ways(t) for t in (q, k, v, decay, write))
        dtype = v.dtype
        q, k, v = (t.to(decay.dtype) for t in self.conv(q, k, v))
        out = gated_delta_rule(_unit(q) * q.shape[-1] ** -0.5, _unit(k), v, decay, write)
        return (out if self.causal else mean_of_both_ways(out)).to(dtype)


def _unit(heads: Heads) -> Heads:
    return heads * torch.rsqrt(heads.square().sum(-1, keepdim=True) + _EPSILON)


def gated_delta_rule(q: Heads, k: Heads, v: Heads, decay: ByToken, write: ByToken) -> Heads:
    """Return O of the module docstring, causal, by chunks.

    Args:
        q: queries, scaled.
        k: keys of length 1.
        v: values.
        decay: logarithms of a.
        write: b.
    """
    tokens = q.shape[2]
    chunk, chunks = chunks_of(tokens)
    q, k, v, decay, write = (in_chunks(t, chunk, chunks) for t in (q, k, v, decay, write))
    sums = decay.cumsum(3)
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    within = (sums - sums.mT).masked_fill(later, float("-inf")).exp()
    written = write * k
    # the solver reads what is below the diagonal alone, and takes the diagonal to be 1
    targets = torch.cat((write * v, written * sums.exp()), -1)
    solved = torch.linalg.solve_triangular(
        (written @ k.mT) * within, targets, upper=False, unitriangular=True
    )
    values, erased = solved.split((v.shape[-1], k.shape[-1]), -1)
    total = sums[..., -1:, :]
    states, new = _scan(values, erased, k * (total - sums).exp(), total.exp())
    out = ((q @ k.mT) * within) @ new
    if chunks > 1:
        out = out + (q * sums.exp()) @ states
    return out.flatten(2, 3)[:, :, :tokens]


def _scan(values: Tensor, erased: Tensor, keys: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Go from chunk to chunk: return the states that they start from and the values they write."""
    first, *rest = values.unbind(2)
    new = [first]
    states = [torch.zeros_like(first[:, :, :1]).expand(-1, -1, keys.shape[-1], -1)]
    # what a chunk writes goes into the state that the next one starts from
    before = zip(keys.unbind(2)[:-1], decay.unbind(2)[:-1], strict=True)
    for (key, kept), value, erase in zip(before, rest, erased.unbind(2)[1:], strict=True):
        states.append(torch.addcmul(key.mT @ new[-1], kept, states[-1]))
        new.append(value - erase @ states[-1])
    return torch.stack(states, 2), torch.stack(new, 2)


def make(shape: AttentionShape, options: GatedDeltaOptions) -> GatedHeads:
    """Build the layer."""
    norm = HeadNorm(shape, weights="head_dim")
    return GatedHeads(shape, GatedDeltaMix(shape, options), norm, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: GatedDeltaOptions) -> int:
    """4 B N C h + 2 (6 B N C s + 6 B P C c + B (6 P - 4 c) C d + 2 B P C (c - 1)); causal: once.

    B batch, N tokens rounded up to P in chunks of c <= 64, C channels, d head_dim, h heads, s
    conv_size. a and b; then for each direction the convolutions, three products within chunks,
    three with states, two of them from the second chunk on (none with one chunk), and the
    triangular systems, which are `uncounted`.
    """
    gates = 2 * selective_decay_flops(shape)
    convolution = short_convolution_flops(
        shape.batch, shape.tokens, shape.channels, options.conv_size
    )
    chunk, chunks = chunks_of(shape.tokens)
    length = shape.batch * chunk * shape.channels
    products = 6 * length * chunks * chunk
    if chunks > 1:
        products += length * (6 * chunks - 4) * shape.head_dim
    return gates + _directions(shape) * (convolution + products) + uncounted(shape, options)[0]


def uncounted(shape: AttentionShape, _options: GatedDeltaOptions) -> tuple[int, str]:
    """2 B P C (c - 1) for each direction: substitution in systems of c rows, 2 d right sides."""
    chunk, chunks = chunks_of(shape.tokens)
    length = shape.batch * chunk * chunks * shape.channels
    why = "Counters of operators have no rule for triangular systems (solve_triangular)."
    return _directions(shape) * 2 * length * (chunk - 1), why


def state_floats(shape: AttentionShape, _options: GatedDeltaOptions) -> int:
    """C d for each direction: S, per head; the few tokens of the convolution are not counted."""
    return _directions(shape) * shape.channels * shape.head_dim


def _directions(shape: AttentionShape) -> int:
    return 1 if shape.causal else 2


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `GatedDeltaNet` of fla-org/flash-linear-attention with expand_v=1."""
    convolutions = tuple(f"{name}_conv1d.weight" for name in "qkv")
    rest = {name: tensor for name, tensor in official.items() if name not in convolutions}
    adopted = adopt_gated_heads(
        rest,
        inputs=("q_proj", "k_proj", "v_proj"),
        gate="g_proj",
        out="o_proj",
        norm="o_norm.weight",
        mix={
            "a_proj.weight": "decay.step.weight",
            "dt_bias": "decay.step_bias",
            "A_log": "decay.log_rate",
            "b_proj.weight": "write.weight",
        },
    )
    if convolutions[0] in official:
        adopted["mix.conv.weight"] = torch.cat([official[name] for name in convolutions])
    return adopted


SPEC = AttentionSpec(
    name="gated_delta",
    title="Gated delta rule",
    family="recurrent",
    paper=Paper(
        title="Gated Delta Networks: Improving Mamba2 with Delta Rule",
        authors=("Songlin Yang", "Jan Kautz", "Ali Hatamizadeh"),
        year=2025,
        venue="ICLR",
        url="https://arxiv.org/abs/2412.06464",
        equation="equation 10; in chunks section 3.3",
        code="https://github.com/fla-org/flash-linear-attention/blob/"
        "bc3b101dcb713ddc5bd8924b66754eb68b5ccf89/fla/layers/gated_deltanet.py",
    ),
    revision=1,
    formula=r"S_t = a_t (I - b_t k_t k_t^\top)\, S_{t-1} + b_t k_t v_t^\top, \quad"
    r"O_t = \frac{S_t^\top q_t}{\sqrt d}, \quad a_t = e^{-e^A \mathrm{softplus}(W_a x_t + c)},"
    r"\quad b_t = \sigma(W_b x_t)",
    deviations=(
        (
            "The paper is causal and no form for all tokens at once is published. Without "
            "causal=True the scan, convolution included, runs both ways with the same weights "
            "and is averaged, so that causal weights load."
        ),
        (
            "Values are as wide as keys; the authors' models have values of twice the width "
            "(expand_v=2), keys of three quarters of the channels and heads of 256."
        ),
        (
            "The triangular systems within chunks are solved by substitution; the authors' "
            "kernels invert them in blocks. It is the same function."
        ),
        (
            "Without the convolution (conv_size=0) silu is still applied, as in the authors' "
            "code, which warns that the convolution is crucial."
        ),
        (
            "The authors' first code (NVlabs/GatedDeltaNet) builds on the same library; its "
            "present layer is what was compared."
        ),
        "The published output projection has no bias; here it has one, as in other variants.",
    ),
    scaling=(
        "No option depends on the grid; the convolution and the reach of the decays are in "
        "tokens, of which a finer grid has more in the same part of the image."
    ),
    options=GatedDeltaOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=gated_projection_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
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
