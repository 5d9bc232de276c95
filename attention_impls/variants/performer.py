r"""Performer: linear attention with positive random features of exp(q . k) (FAVOR+).

    O_i = phi(q_i) . sum_j phi(k_j) v_j^T / (phi(q_i) . sum_j phi(k_j))
    phi(x) = exp(W y - |y|^2 / 2 - c(x)) + eps,    y = x / d^(1/4)

q, k, v: queries, keys, values of one head [N, d]; W [r, d]: rows are Gaussian in length and, within
blocks of d, orthogonal; the expectation over W of the products of features is exp(q . k / sqrt(d)).
c keeps the exponential in range and cancels but for eps: for queries it is the largest entry of
W y of the row, for keys that of all tokens of the head. The factor r^(-1/2) cancels exactly and is
left out. Two more maps of the published code are options: phi(x) = relu(W y) + eps ("relu"), and
no random features at all, phi = softmax over d for queries and over tokens for keys ("none").

Causal form: row i is the bidirectional mechanism on the tokens j <= i. With the running stabiliser
c_i = max over j <= i and C = c_N its weights are, up to a common factor,

    phi(q_i) . exp(W y_j - |y_j|^2 / 2 - C) + eps exp(c_i - C) sum_r phi(q_i)_r,

one feature more than the bidirectional form, and C cancels: nothing is learned from later tokens.

Choromanski et al., "Rethinking Attention with Performers", ICLR 2021,
https://arxiv.org/abs/2009.14794, Section 2 and Lemma 1. Code: lucidrains/performer-pytorch. Where
the two differ, see `deviations`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.linear_attention import causal_normalised_product, chunks_of
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Features = Float[Tensor, "batch heads tokens features"]
FeatureMap = Literal["softmax", "relu", "none"]

_EPSILON: dict[FeatureMap, float] = {"softmax": 1e-4, "relu": 1e-3, "none": 0.0}
_LEAST_EXPONENT = -50.0
"""exp(c_i - C) stays positive in float32; a row that far below the largest key is eps alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformerOptions:
    """Options of Performer."""

    features: int | None = None
    """Random features r; None: the integer part of d ln d, at least 1."""
    feature_map: FeatureMap = "softmax"
    """`softmax` (FAVOR+), `relu` (generalised attention), `none` (no random features)."""
    orthogonal: bool = True
    """Rows of W are orthogonal within blocks of d; False: independent."""
    row_norms: Literal["random", "constant"] = "random"
    """Lengths of orthogonal rows: `random` as those of Gaussian vectors, `constant` sqrt(d)."""
    uniform_directions: bool = False
    """Orthogonal blocks are uniformly distributed; False: as published, with fixed signs."""
    epsilon: float | None = None
    """Added to every feature; None: 1e-4 for softmax, 1e-3 for relu. Not used by `none`."""
    seed: int = 0
    """Seed of W, which is drawn once and kept."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.features is not None and self.features < 1:
            raise ValueError(f"features is {self.features}, must be None or >= 1")
        if self.epsilon is not None and self.epsilon < 0:
            raise ValueError(f"epsilon is {self.epsilon}, must be None or >= 0")


def feature_count(head_dim: int, options: PerformerOptions) -> int:
    """Return the number of features r of each query and key."""
    if options.feature_map == "none":
        return head_dim
    return options.features or max(1, int(head_dim * math.log(head_dim)))


def random_projection(
    features: int, head_dim: int, options: PerformerOptions
) -> Float[Tensor, "features head_dim"]:
    """Draw W from the seed: blocks of orthogonal rows first, then their lengths."""
    generator = torch.Generator(device="cpu").manual_seed(options.seed)

    def gaussian(rows: int) -> Tensor:
        return torch.randn(rows, head_dim, generator=generator, dtype=torch.float32, device="cpu")

    if not options.orthogonal:
        drawn = gaussian(features)
    else:
        count = -(-features // head_dim)
        blocks = [_orthogonal(gaussian(head_dim), options) for _ in range(count)]
        directions = torch.cat(blocks)[:features]
        constant = torch.full((features, 1), head_dim**0.5, device="cpu")
        random = options.row_norms == "random"
        drawn = directions * (gaussian(features).norm(dim=1, keepdim=True) if random else constant)
    return drawn.to(device=torch.get_default_device(), dtype=torch.get_default_dtype())


def _orthogonal(
    drawn: Float[Tensor, "head_dim head_dim"], options: PerformerOptions
) -> Float[Tensor, "head_dim head_dim"]:
    q, r = torch.linalg.qr(drawn)
    return (q * r.diagonal().sign() if options.uniform_directions else q).T


class PerformerMix(nn.Module):
    """Buffer: `projection` [features, head_dim], W (unless the feature map is `none`)."""

    projection: Tensor

    def __init__(self, shape: AttentionShape, options: PerformerOptions) -> None:
        super().__init__()
        self.causal = shape.causal
        self.map: FeatureMap = options.feature_map
        self.scale = shape.head_dim**-0.25
        self.epsilon = _EPSILON[self.map]
        if options.epsilon is not None and self.map != "none":
            self.epsilon = options.epsilon
        if self.map == "none":
            self.register_load_state_dict_pre_hook(_drop_unused_projection)
        else:
            features = feature_count(shape.head_dim, options)
            self.register_buffer("projection", random_projection(features, shape.head_dim, options))

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend. Features and normaliser are float32 for half-precision inputs."""
        exact = torch.promote_types(q.dtype, torch.float32)
        mixed = (self._causal if self.causal else self._bidirectional)(
            q.to(exact), k.to(exact), v.to(exact)
        )
        return mixed.to(q.dtype)

    def _bidirectional(self, q: Heads, k: Heads, v: Heads) -> Heads:
        queries, keys = self._queries(q), self._keys(k)
        # eps is added to sums instead of to every feature: two passes over N x r numbers less
        summary = keys.transpose(-1, -2) @ v + self.epsilon * v.sum(-2, keepdim=True)
        total = keys.sum(-2).unsqueeze(-1) + self.epsilon * k.shape[-2]
        state = torch.cat((summary, total), -1)
        read = queries @ state + self.epsilon * state.sum(-2, keepdim=True)
        return read[..., :-1] / read[..., -1:]

    def _causal(self, q: Heads, k: Heads, v: Heads) -> Heads:
        queries = self._queries(q) + self.epsilon
        if self.map == "relu":
            return causal_normalised_product(queries, self._keys(k) + self.epsilon, v, 0.0)
        projected = self._project(k)
        running = projected.detach().amax(-1, keepdim=True).cummax(-2).values
        largest = running[..., -1:, :]
        keys = _positive(projected, k, largest, self.scale)
        share = (running - largest).clamp_(min=_LEAST_EXPONENT).exp_() * self.epsilon
        queries = torch.cat((queries, share * queries.sum(-1, keepdim=True)), -1)
        keys = torch.cat((keys, torch.ones_like(share)), -1)
        return causal_normalised_product(queries, keys, v, 0.0)

    def _queries(self, q: Heads) -> Features:
        """Return phi - eps of the queries."""
        if self.map == "none":
            return q.softmax(-1)
        projected = self._project(q)
        if self.map == "relu":
            return projected.relu_()
        return _positive(projected, q, projected.detach().amax(-1, keepdim=True), self.scale)

    def _keys(self, k: Heads) -> Features:
        """Return phi - eps of the keys, of the bidirectional form."""
        if self.map == "none":
            return k.softmax(-2)
        projected = self._project(k)
        if self.map == "relu":
            return projected.relu_()
        return _positive(projected, k, projected.detach().amax((-2, -1), keepdim=True), self.scale)

    def _project(self, heads: Heads) -> Features:
        return heads @ (self.projection.to(heads.dtype) * self.scale).T


def _drop_unused_projection(
    module: nn.Module,  # noqa: ARG001
    state_dict: dict[str, Any],
    prefix: str,
    *_unused: Any,
) -> None:
    """A published layer without random features keeps a matrix that it does not use."""
    state_dict.pop(f"{prefix}projection", None)


def _positive(
    projected: Features,
    heads: Heads,
    largest: Float[Tensor, "batch heads #tokens 1"],
    scale: float,
) -> Features:
    """Return exp(projected - |scale * heads|^2 / 2 - largest), in the memory of `projected`."""
    half_square = heads.square().sum(-1, keepdim=True) * (scale**2 / 2)
    return projected.sub_(half_square + largest).exp_()


def make(shape: AttentionShape, options: PerformerOptions) -> nn.Module:
    """Build the layer."""
    return MultiHead(shape, PerformerMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: PerformerOptions) -> int:
    """FLOPs of one mix: 2 B h N r (4 d + 1) with r features.

    Features of queries and of keys, state and reading 2 N r d each, normaliser 2 N r. The map
    `none` has no features to compute: 2 B h N d (2 d + 1). Causal, with r' = r + 1 (r for `relu`)
    features and N rounded up to P tokens in chunks of c: 4 N r d for the features, and
    2 P (r' (2 d + 1 + c) + c d) for state, reading, normaliser and the weights within chunks.
    """
    matrices, tokens, width = shape.batch * shape.heads, shape.tokens, shape.head_dim
    count = feature_count(width, options)
    features = 0 if options.feature_map == "none" else 4 * tokens * count * width
    if not shape.causal:
        return matrices * (features + 2 * tokens * count * (2 * width + 1))
    chunk, chunks = chunks_of(tokens)
    held = count + (options.feature_map == "softmax")
    sums = held * (2 * width + 1 + chunk) + chunk * width
    return matrices * (features + 2 * chunk * chunks * sums)


def state_floats(shape: AttentionShape, options: PerformerOptions) -> int:
    """Numbers a query needs: r x (d + 1) a head; causal, one feature more for eps."""
    one_more = shape.causal and options.feature_map == "softmax"
    held = feature_count(shape.head_dim, options) + one_more
    return shape.heads * held * (shape.head_dim + 1)


def own_limits(shape: AttentionShape, options: PerformerOptions) -> tuple[str, ...]:
    """Return why `shape` cannot be computed."""
    if shape.causal and options.feature_map == "none":
        return ("feature_map='none' has no causal form: its keys are normalised over all tokens",)
    return ()


def order(_options: PerformerOptions) -> float:
    """Exponent in tokens."""
    return 1.0


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map the names of lucidrains' SelfAttention onto ours, the drawn W included."""
    mapping = {"fast_attention.projection_matrix": "projection"}
    return adopt_projections(official, ("to_q", "to_k", "to_v"), "to_out", mapping)


SPEC = AttentionSpec(
    name="performer",
    title="Performer",
    family="feature_map",
    paper=Paper(
        title="Rethinking Attention with Performers",
        authors=(
            "Krzysztof Choromanski",
            "Valerii Likhosherstov",
            "David Dohan",
            "Xingyou Song",
            "Andreea Gane",
            "Tamas Sarlos",
            "Peter Hawkins",
            "Jared Davis",
            "Afroz Mohiuddin",
            "Lukasz Kaiser",
            "David Belanger",
            "Lucy Colwell",
            "Adrian Weller",
        ),
        year=2021,
        venue="ICLR",
        url="https://arxiv.org/abs/2009.14794",
        equation="Section 2, Lemma 1 (positive random features)",
        code=(
            "https://github.com/lucidrains/performer-pytorch/tree/"
            "fc8b78441b1e27eb5d9b01fc738a8772cee07127"
        ),
    ),
    revision=1,
    formula=(
        r"O_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_j \phi(k_j)},"
        r"\quad \phi(x) = e^{W y - \lVert y \rVert^2/2 - c} + \varepsilon,\quad y = x\,d^{-1/4}"
    ),
    deviations=(
        (
            "The paper redraws W during training and lucidrains' code does so every 1000 steps; "
            "here W is drawn once from a seed and kept, so that two calls give the same bits."
        ),
        (
            "As in lucidrains' code the stabiliser of the keys is the largest projection over the "
            "tokens of one head and one sequence; copies that take it over the batch couple the "
            "sequences through eps."
        ),
        (
            "In the causal form row i is the bidirectional mechanism on the tokens up to i. The "
            "published causal code takes the keys' stabiliser over all tokens, later ones "
            "included, so that through eps an output depends on tokens after it, and adds 1e-6 to "
            "the denominator."
        ),
        (
            "The published orthogonal rows are the factor Q of a QR decomposition as it comes, "
            "whose signs are fixed: rows prefer one side, and the estimate of exp(q . k) is biased "
            "for narrow heads (clearly at head_dim 8, within its noise at 32). "
            "uniform_directions=True restores the distribution that the paper's proof needs."
        ),
        (
            "The stabilisers are constants in the backward pass, as published: they cancel but for "
            "eps, so that gradients are exact for eps = 0 and differ by the order of eps "
            "otherwise."
        ),
        (
            "eps is added to sums over features and tokens instead of to each feature: the same "
            "number, with fewer passes over memory."
        ),
        (
            "feature_map='none' is the code's no_projection; it is not in the paper and is "
            "Efficient Attention (Shen et al.) without its scale."
        ),
        ("The published projections have no bias; qkv_bias=True adds one, as other variants have."),
        "Features and normaliser are computed in float32 for half-precision inputs.",
    ),
    scaling="The number of features depends on head_dim alone, so cost is linear in tokens.",
    options=PerformerOptions(),
    make=make,
    core_flops=core_flops,
    order=order,
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
    own_limits=own_limits,
    adopt_official=adopt_official,
)
