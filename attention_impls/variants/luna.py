"""Luna: attention through a learned memory of a few tokens that is packed and unpacked.

    Y = softmax(P_q K^T / sqrt(d)) V                       packed: [l, d]
    O = softmax(Q (Y W_c)^T / sqrt(d)) (Y W_c)             unpacked: [N, d]

Q: queries [N, d] of one head; K = V: keys and values, one linear map of the layer's input; P_q: a
linear map of the memory P [l, C], learned; W_c: a linear map over all heads together, from C to C
channels, of the packed memory. Causal, with a_j = softplus(P_q k_j) (in base 2) in place of the
first softmax and c_j = x_j W_c of the layer's input x:

    O_i = (1 / i) sum_{j <= i} (w_i . a_j) c_j
    w_i = softmax((1 / i) sum_{j <= i} (q_i . c_j) a_j)

Ma et al., "Luna: Linear Unified Nested Attention", NeurIPS 2021, https://arxiv.org/abs/2106.01540,
Section 3.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections, merge_heads
from attention_impls.parts.causal_product import causal_product, causal_product_flops
from attention_impls.parts.softmax_rows import softmax_rows, softmax_rows_flops
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LunaOptions:
    """Options of Luna."""

    memory_tokens: int = 16
    """Tokens l of the memory: 16 for short sequences, 128 or 256 in the published comparisons."""
    tied_keys_values: bool = True
    """Keys are the values, when packing and when unpacking."""
    qkv_bias: bool = True
    """The linear maps but the last have a bias."""

    def __post_init__(self) -> None:
        if self.memory_tokens < 1:
            raise ValueError(f"memory_tokens is {self.memory_tokens}, must be >= 1")


class Memory(nn.Module):
    """P and its queries. Parameters: `tokens` [l, channels] and the linear map `query`."""

    def __init__(self, shape: AttentionShape, options: LunaOptions) -> None:
        super().__init__()
        self.heads = shape.heads
        self.tokens = nn.Parameter(torch.empty(options.memory_tokens, shape.channels))
        nn.init.normal_(self.tokens, std=shape.channels**-0.5)
        self.query = nn.Linear(shape.channels, shape.channels, bias=options.qkv_bias)

    def forward(self) -> Float[Tensor, "1 heads memory head_dim"]:
        """Return P_q."""
        return self.query(self.tokens).unflatten(1, (self.heads, -1)).transpose(0, 1).unsqueeze(0)


class LunaMix(nn.Module):
    """The formulas of the module docstring.

    Parameters: those of `memory`, and the linear map `packed` (W_c; keys beside values if apart).
    """

    def __init__(self, shape: AttentionShape, options: LunaOptions) -> None:
        super().__init__()
        self.heads = shape.heads
        self.causal = shape.causal
        self.memory = Memory(shape, options)
        maps = 1 if options.tied_keys_values else 2
        self.packed = nn.Linear(shape.channels, maps * shape.channels, bias=options.qkv_bias)

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Attend; `k` and `v` are what is packed, in a layer the same tensor if tied.

        Causal, the values of the sums are a map of `x`, and `v` plays no part.
        """
        if self.causal:
            return self._causal(q, k, self._mapped(x)[0])
        packed = softmax_rows(self.memory().expand(q.shape[0], -1, -1, -1), k, v)
        maps = self._mapped(merge_heads(packed))
        return softmax_rows(q, maps[0], maps[-1])

    def _mapped(self, stream: Stream) -> list[Heads]:
        """Apply W_c; one tensor, or keys and values."""
        maps = self.packed(stream).unflatten(2, (-1, self.heads, stream.shape[2] // self.heads))
        return [t.transpose(1, 2) for t in maps.unbind(2)]

    def _causal(self, q: Heads, k: Heads, c: Heads) -> Heads:
        exact = torch.promote_types(q.dtype, torch.float32)
        scale = q.shape[-1] ** -0.5
        packing = F.softplus((k @ (self.memory() * scale).mT).to(exact), beta=math.log(2))
        count = torch.arange(1, q.shape[2] + 1, device=q.device, dtype=exact)
        share, values = count.reciprocal()[:, None], c.to(exact)
        weights = (causal_product(q.to(exact) * scale, values, packing) * share).softmax(-1)
        return (causal_product(weights, packing, values) * share).to(q.dtype)


class LunaLayer(MultiHead):
    """The layer of a tied Luna: two input maps, the keys being the values."""

    def __init__(self, shape: AttentionShape, options: LunaOptions) -> None:
        super().__init__(shape, LunaMix(shape, options), qkv_bias=options.qkv_bias)
        self.qkv = nn.Linear(shape.channels, 2 * shape.channels, bias=options.qkv_bias)

    def project(self, x: Stream) -> tuple[Heads, Heads, Heads]:
        """Return the queries, and what is packed twice."""
        parts = self.qkv(x).unflatten(2, (2, self.heads, self.head_dim)).unbind(2)
        q, packed = (part.transpose(1, 2) for part in parts)
        # two products read it, and each would copy it
        packed = packed.contiguous()
        return q, packed, packed


def make(shape: AttentionShape, options: LunaOptions) -> MultiHead:
    """Build the layer."""
    if options.tied_keys_values:
        return LunaLayer(shape, options)
    return MultiHead(shape, LunaMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: LunaOptions) -> int:
    """8 B N l C + 2 l C^2 + 2 B l C^2: packing, unpacking 4 B N l C each; P_q; W_c.

    B batch, N tokens, C channels, l memory tokens; keys apart from values, W_c costs 4 B l C^2.
    Causal: 2 l C^2 + 2 B N C^2 + 2 B N l C, and two causal products with d and l features and
    values.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    matrices, count = batch * shape.heads, options.memory_tokens
    of_memory = 2 * count * channels**2
    if shape.causal:
        products = causal_product_flops(matrices, tokens, shape.head_dim, count)
        products += causal_product_flops(matrices, tokens, count, shape.head_dim)
        return of_memory + 2 * batch * tokens * channels * (channels + count) + products
    maps = 1 if options.tied_keys_values else 2
    packing = softmax_rows_flops(matrices, count, tokens, shape.head_dim)
    return 2 * packing + of_memory * (1 + maps * batch)


def projection_flops(shape: AttentionShape, options: LunaOptions) -> int:
    """2 B N C^2 a linear map: queries, keys that are the values (or two maps), out."""
    maps = 3 if options.tied_keys_values else 4
    return 2 * maps * shape.batch * shape.tokens * shape.channels**2


def state_floats(shape: AttentionShape, options: LunaOptions) -> int:
    """Numbers a query needs, l C: the packed memory, or the running sum of a_j c_j^T."""
    return options.memory_tokens * shape.channels


def own_limits(shape: AttentionShape, options: LunaOptions) -> tuple[str, ...]:
    """Return why `shape` cannot be computed."""
    if shape.causal and not options.tied_keys_values:
        return ("no causal form with tied_keys_values=False: it would have four maps of the input",)
    return ()


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the authors' `LunarMultiheadAttention`, or `LunarCausalAttention` if tied.

    P is a parameter of their encoder, `projected_embeddings`; it may stand beside the others.
    """
    mix = {"projected_embeddings": "memory.tokens"}
    mix |= {f"pq_proj.{kind}": f"memory.query.{kind}" for kind in ("weight", "bias")}
    if "pk_proj.weight" in official:
        merged = {k: v for k, v in official.items() if not k.startswith(("k_proj.", "v_proj."))}
        for kind in ("weight", "bias"):
            pair = [official[f"{name}.{kind}"] for name in ("k_proj", "v_proj")]
            merged[f"packed.{kind}"] = torch.cat(pair)
            mix[f"packed.{kind}"] = f"packed.{kind}"
        return adopt_projections(merged, ("q_proj", "pk_proj", "pv_proj"), "out_proj", mix)
    mix |= {f"c_proj.{kind}": f"packed.{kind}" for kind in ("weight", "bias")}
    return adopt_projections(official, ("q_proj", "pc_proj"), "out_proj", mix)


SPEC = AttentionSpec(
    name="luna",
    title="Luna",
    family="low_rank",
    paper=Paper(
        title="Luna: Linear Unified Nested Attention",
        authors=(
            "Xuezhe Ma",
            "Xiang Kong",
            "Sinong Wang",
            "Chunting Zhou",
            "Jonathan May",
            "Hao Ma",
            "Luke Zettlemoyer",
        ),
        year=2021,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2106.01540",
        equation="Section 3: pack and unpack attention; Section 3.2: the causal form",
        code=(
            "https://github.com/XuezheMax/fairseq-apollo/tree/"
            "3644d2064b1a1751db45654cc1d01a08ab3a860f"
        ),
    ),
    revision=1,
    formula=(
        r"Y = \mathrm{softmax}\!\left(\frac{P_q K^\top}{\sqrt d}\right) V,\quad"
        r" O = \mathrm{softmax}\!\left(\frac{Q (Y W_c)^\top}{\sqrt d}\right) Y W_c"
    ),
    deviations=(
        (
            "The authors' layers hand the packed memory on to the next layer as its P. A layer "
            "here stands alone and has a P of its own, which it learns; the packed memory is "
            "dropped."
        ),
        (
            "The packing has as many heads as the unpacking, as in the published models; the "
            "authors' code can have others."
        ),
        (
            "The causal form works on chunks of 64 tokens, half precision in float32, where the "
            "authors' code forms a matrix for each token or loops over them; it equals the "
            "recurrence over single tokens."
        ),
    ),
    scaling="The 16 memory tokens stay 16 while the grid grows, so cost is linear in tokens.",
    options=LunaOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=projection_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=True,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=True,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    own_limits=own_limits,
    adopt_official=adopt_official,
)
