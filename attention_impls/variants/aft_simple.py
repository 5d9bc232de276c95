"""AFT-simple: one weighted mean of the values for all queries, gated by each query.

    O_i = sigmoid(q_i) * sum_j exp(k_j) * v_j / sum_j exp(k_j)

q_i, k_j, v_j: query, key and value of tokens i and j; *, exp and / act on each channel by itself,
so that heads play no part; j runs over all N tokens, or over j <= i in the causal form. Linear in
N, with no product between queries and keys.

Zhai, Talbott, Srivastava, Huang, Goh, Zhang, Susskind, "An Attention Free Transformer", 2021,
https://arxiv.org/abs/2105.14103, the form called AFT-simple. The authors published no code; the
widely used module is that of idiap/fast-transformers.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from attention_impls.multihead import FunctionMix, MultiHead, adopt_projections
from attention_impls.parts.chunks import in_chunks
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec, NoOptions, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

_CHUNK_TOKENS = 16
"""Tokens of a chunk of the causal form: all values are read once more than log2 of it."""


def attend(q: Heads, k: Heads, v: Heads) -> Heads:
    """Return O over all tokens; in half precision weights and mean are float32."""
    wide = torch.promote_types(k.dtype, torch.float32)
    mean = (k.softmax(2, dtype=wide) * v).sum(2, keepdim=True)
    return q.sigmoid() * mean.to(q.dtype)


def attend_causal(q: Heads, k: Heads, v: Heads) -> Heads:
    """Return O over j <= i; half precision in float32.

    Means within chunks, then over the chunks before, then both joined.
    """
    wide = torch.promote_types(k.dtype, torch.float32)
    tokens, chunks = k.shape[2], math.ceil(k.shape[2] / _CHUNK_TOKENS)
    total, mean = (in_chunks(t.to(wide), _CHUNK_TOKENS, chunks) for t in (k, v))
    total, mean = _running_means(total, mean)
    if chunks > 1:
        before = _running_means(total[:, :, :-1, -1], mean[:, :, :-1, -1])
        far_total, far_mean = (t.unsqueeze(3) for t in before)
        joined = _joined(total[:, :, 1:], mean[:, :, 1:], far_total, far_mean)
        mean = torch.cat((mean[:, :, :1], joined), 2)
    mean = mean.flatten(2, 3)[:, :, :tokens]
    return (q.to(wide).sigmoid() * mean).to(q.dtype)


def _running_means(total: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Join each place of the last axis but one with all before it: 1, 2, 4, ... at a time.

    Args:
        total: logarithms of sums of weights.
        mean: weighted means of values.
    """
    reach = 1
    while reach < total.shape[-2]:
        near, far = total[..., reach:, :], total[..., :-reach, :]
        joined = _joined(near, mean[..., reach:, :], far, mean[..., :-reach, :])
        mean = torch.cat((mean[..., :reach, :], joined), -2)
        total = torch.cat((total[..., :reach, :], torch.logaddexp(near, far)), -2)
        reach *= 2
    return total, mean


def _joined(near: Tensor, near_mean: Tensor, far: Tensor, far_mean: Tensor) -> Tensor:
    """Mean of two means; its weights are in [0, 1] whatever the sums, of which these are logs."""
    return torch.lerp(near_mean, far_mean, (far - near).sigmoid())


def make(shape: AttentionShape, options: NoOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    mix = FunctionMix(attend_causal if shape.causal else attend)
    return MultiHead(shape, mix, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: NoOptions) -> int:
    """2 B N C: each value times its weight, added up.

    B batch, N tokens, C channels. The causal form is counted as the recurrence that it computes.
    """
    return 2 * shape.batch * shape.tokens * shape.channels


def uncounted(shape: AttentionShape, options: NoOptions) -> tuple[int, str]:
    """All of `core_flops`."""
    return core_flops(shape, options), "The mean over tokens is written as product and sum."


def state_floats(shape: AttentionShape, _options: NoOptions) -> int:
    """2 C: the weighted mean of the values and the sum of the weights, by channel."""
    return 2 * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `AttentionLayer` around `AFTSimpleAttention` of idiap/fast-transformers."""
    inputs = ("query_projection", "key_projection", "value_projection")
    return adopt_projections(official, inputs, "out_projection", {})


SPEC = AttentionSpec(
    name="aft_simple",
    title="AFT-simple",
    family="pooled",
    paper=Paper(
        title="An Attention Free Transformer",
        authors=(
            "Shuangfei Zhai",
            "Walter Talbott",
            "Nitish Srivastava",
            "Chen Huang",
            "Hanlin Goh",
            "Ruixiang Zhang",
            "Josh Susskind",
        ),
        year=2021,
        venue="arXiv",
        url="https://arxiv.org/abs/2105.14103",
        equation="the form called AFT-simple",
        code="https://github.com/idiap/fast-transformers/blob/"
        "2ad36b97e64cb93862937bd21fcc9568d989561f/fast_transformers/attention/aft_attention.py",
    ),
    revision=1,
    formula=r"O_i = \sigma(q_i) \odot \frac{\sum_j e^{k_j} \odot v_j}{\sum_j e^{k_j}}",
    deviations=(
        (
            "The causal form is the paper's, a mean over j <= i. idiap's code divides the weight "
            "of token j by the sum up to j instead of up to i, which is another function, and "
            "takes exp(k - max k), which underflows before one large key. Here means over 1, 2, "
            "4, ... tokens are joined, in chunks of 16 and then over the chunks."
        ),
        (
            "The forms with learned position biases (AFT-full, AFT-local, AFT-conv) are other "
            "mechanisms; idiap's AFT-full multiplies keys by the biases that the paper adds."
        ),
    ),
    scaling="There is nothing to scale; the state keeps its size while the grid grows.",
    options=NoOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    uncounted=uncounted,
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
