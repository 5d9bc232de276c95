"""sigmoid against weights computed one by one, and the bias that follows the number of tokens."""

import math

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.sigmoid import SigmoidOptions
from bench.stimulus import fill_parameters, normal


def tensors(tokens: int) -> tuple[Tensor, ...]:
    q, k, v = (normal(name, (2, 3, tokens, 4), dtype=torch.float64) for name in "qkv")
    return q, k, v, v.transpose(1, 2).flatten(2)


def one_by_one(q: Tensor, k: Tensor, v: Tensor, bias: float, *, causal: bool) -> Tensor:
    out = torch.zeros_like(v)
    for i in range(q.shape[2]):
        for j in range(i + 1 if causal else q.shape[2]):
            score = (q[:, :, i] * k[:, :, j]).sum(-1, keepdim=True) / 2 + bias
            out[:, :, i] += v[:, :, j] / (1 + (-score).exp())
    return out


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [None, 0.0, -1.5])
def test_equals_the_weights_one_by_one(tokens: int, causal: bool, bias: float | None) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=4, causal=causal)
    mix = load("sigmoid").build(shape, SigmoidOptions(bias=bias)).double().mix
    q, k, v, x = tensors(tokens)
    number = -math.log(tokens) if bias is None else bias
    got = mix(q, k, v, x, shape.grid)
    torch.testing.assert_close(got, one_by_one(q, k, v, number, causal=causal))
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(got, one_by_one(q, k, v, number + 0.01, causal=causal))


def test_rows_keep_their_sum_while_the_sequence_grows() -> None:
    """Weights of scores 0 are 1 / (1 + N); a bias of 0 would make every row sum to N / 2."""
    for tokens in (1, 10, 1000):
        shape = AttentionShape(batch=1, grid=Grid(1, tokens), heads=1, head_dim=4)
        ones = torch.ones(1, 1, tokens, 4, dtype=torch.float64)
        zeros = torch.zeros_like(ones)
        rows = load("sigmoid").build(shape).mix(zeros, zeros, ones, ones[0], shape.grid)
        torch.testing.assert_close(rows, torch.full_like(rows, tokens / (1 + tokens)))
        plain = load("sigmoid").build(shape, SigmoidOptions(bias=0.0)).mix
        other = plain(zeros, zeros, ones, ones[0], shape.grid)
        torch.testing.assert_close(other, torch.full_like(rows, tokens / 2))


def test_a_causal_bias_is_that_of_the_length_built_for() -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, 9), heads=3, head_dim=4, causal=True)
    mix = load("sigmoid").build(shape).mix
    q, k, v, _ = tensors(6)
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), Grid(1, 6))
    torch.testing.assert_close(got, one_by_one(q, k, v, -math.log(9), causal=True))


def test_normalised_queries_and_keys() -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, 9), heads=3, head_dim=4)
    layer = load("sigmoid").build(shape, SigmoidOptions(qk_norm=True))
    fill_parameters(layer)
    mix = layer.double().requires_grad_(requires_grad=False).mix
    q, k, v, x = tensors(9)

    def normalised(t: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
        centred = t - t.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * norm.weight + norm.bias

    want = one_by_one(
        normalised(q, mix.query_norm), normalised(k, mix.key_norm), v, -math.log(9), causal=False
    )
    torch.testing.assert_close(mix(q, k, v, x, shape.grid), want)
    assert not torch.equal(mix.query_norm.weight, mix.key_norm.weight)


def test_published_numbers_that_have_no_place_are_refused() -> None:
    spec = load("sigmoid")
    shape = AttentionShape(batch=1, grid=Grid(1, 9), heads=2, head_dim=4)
    published = {
        "qkv.weight": torch.zeros(24, 8), "proj.weight": torch.zeros(8, 8),
        "proj.bias": torch.zeros(8), "attn_bias": torch.tensor([-3.0]),
        "attn_temp": torch.zeros(1),
    }  # fmt: skip
    adopted = spec.adopt_official(published)
    layer = spec.build(shape, SigmoidOptions(bias=0.0))
    layer.load_state_dict(adopted)
    assert layer.mix.bias.item() == -3
    with pytest.raises(RuntimeError, match=r"Unexpected key.*mix\.bias"):
        spec.build(shape).load_state_dict(adopted)
    with pytest.raises(ValueError, match="attn_temp"):
        spec.adopt_official(published | {"attn_temp": torch.ones(1)})


@pytest.mark.parametrize("bias", [math.inf, math.nan])
def test_a_bias_that_is_no_number_is_refused(bias: float) -> None:
    with pytest.raises(ValueError, match="bias"):
        SigmoidOptions(bias=bias)
