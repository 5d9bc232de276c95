"""gated_linear against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from property.recurrent_oracles import LENGTHS, decayed_scan, inputs, reversed_scan
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from bench.vector import built

SPEC = load("gated_linear")
HEADS, WIDTH = 2, 4


def mix_of(tokens: int, *, causal: bool = False):
    shape = AttentionShape(2, Grid(1, tokens), HEADS, WIDTH, causal=causal)
    return built(SPEC, shape).mix


def decays(mix, x: Tensor) -> Tensor:
    """sigmoid(W_2 W_1 x + b)^(1/16), by head."""
    down, up = mix.decay
    gate = torch.sigmoid(x @ down.weight.T @ up.weight.T + up.bias) ** (1 / 16)
    return gate.unflatten(2, (HEADS, WIDTH)).transpose(1, 2)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_chunks_equal_the_recurrence_and_the_mean_of_both_ways(tokens: int) -> None:
    q, k, v, x = inputs(2, HEADS, tokens, WIDTH)
    mix, grid = mix_of(tokens, causal=True), Grid(1, tokens)
    terms = (q / WIDTH**0.5, k, v, decays(mix, x))
    ahead = decayed_scan(*terms)
    assert_close(mix(q, k, v, x, grid), ahead, rtol=1e-10, atol=1e-11)
    both = (ahead + reversed_scan(decayed_scan, *terms)) / 2
    assert_close(mix_of(tokens)(q, k, v, x, grid), both, rtol=1e-10, atol=1e-11)


def test_a_decay_for_all_channels_alike_is_told_apart() -> None:
    q, k, v, x = inputs(2, HEADS, 70, WIDTH)
    mix, grid = mix_of(70, causal=True), Grid(1, 70)
    alike = decays(mix, 8 * x).mean(-1, keepdim=True)
    want = decayed_scan(q / WIDTH**0.5, k, v, alike)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, 8 * x, grid), want, rtol=1e-3, atol=1e-3)


def test_both_ways_is_the_mean_of_the_causal_mix_and_its_mirror_image() -> None:
    tensors, grid = inputs(2, HEADS, 100, WIDTH), Grid(1, 100)
    causal = mix_of(100, causal=True)
    ahead = causal(*tensors, grid)
    back = causal(*(t.flip(2 if t.ndim == 4 else 1) for t in tensors), grid).flip(2)
    got = mix_of(100)(*tensors, grid)
    assert_close(got, (ahead + back) / 2, rtol=1e-10, atol=1e-11)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, ahead, rtol=1e-3, atol=1e-3)


def test_causal_weights_are_those_of_the_form_for_all_tokens() -> None:
    shape = AttentionShape(2, Grid(1, 9), HEADS, WIDTH)
    causal = SPEC.build(replace(shape, causal=True))
    SPEC.build(shape).load_state_dict(causal.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_closed_gates_stay_finite_in_half_precision(dtype: torch.dtype) -> None:
    tensors = [t.to(dtype) for t in inputs(2, HEADS, 200, WIDTH)]
    mix = mix_of(200).to(dtype)
    mix.decay[1].bias.fill_(-2000.0)  # gates of e^-125: nothing survives one token
    out = mix(*tensors, Grid(1, 200))
    q, k, v, _ = (t.double() for t in tensors)
    own = (q * k).sum(-1, keepdim=True) / WIDTH**0.5 * v
    assert_close(out.double(), own, rtol=0.02, atol=0.02)


def test_limits_and_options_out_of_range_are_refused() -> None:
    with pytest.raises(UnsupportedShape, match="head_dim is 1"):
        SPEC.build(AttentionShape(1, Grid(2, 2), 3, 1))
    for name, value in (("gate_rank", 0), ("gate_divisor", 0)):
        with pytest.raises(ValueError, match=name):
            replace(SPEC.options, **{name: value})
