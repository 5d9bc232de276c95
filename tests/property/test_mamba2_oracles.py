"""mamba2 against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from property.recurrent_oracles import LENGTHS, convolved, decayed_scan, inputs
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from bench.vector import built

SPEC = load("mamba2")
HEADS, WIDTH = 2, 4


def mix_of(tokens: int, *, causal: bool = False, **options):
    shape = AttentionShape(2, Grid(1, tokens), HEADS, WIDTH, causal=causal)
    return built(SPEC, shape, replace(SPEC.options, **options)).mix


def scanned(mix, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """The causal form, one token after the other."""
    weights, biases = mix.conv.weight.chunk(3), mix.conv.bias.chunk(3)
    q, k, v = (convolved(*of) for of in zip((q, k, v), weights, biases, strict=True))
    step = torch.log(1 + torch.exp(x @ mix.decay.step.weight.T + mix.decay.step_bias))
    decay = torch.exp(-torch.exp(mix.decay.log_rate) * step)
    step, decay = (t.transpose(1, 2).unsqueeze(-1) for t in (step, decay))
    return decayed_scan(q, step * k, v, decay) + mix.own.view(-1, 1, 1) * v


@pytest.mark.parametrize("tokens", LENGTHS)
def test_chunks_equal_the_recurrence_and_the_mean_of_both_ways(tokens: int) -> None:
    tensors, grid = inputs(2, HEADS, tokens, WIDTH), Grid(1, tokens)
    mix = mix_of(tokens, causal=True)
    ahead = scanned(mix, *tensors)
    assert_close(mix(*tensors, grid), ahead, rtol=1e-10, atol=1e-11)
    back = scanned(mix, *(t.flip(2 if t.ndim == 4 else 1) for t in tensors)).flip(2)
    got = mix_of(tokens)(*tensors, grid)
    assert_close(got, (ahead + back) / 2, rtol=1e-10, atol=1e-11)


def test_each_part_is_told_apart() -> None:
    """Step, own term and convolution: none may be left out."""
    tensors, grid = inputs(2, HEADS, 40, WIDTH), Grid(1, 40)
    want = scanned(mix_of(40, causal=True), *tensors)
    for name in ("decay.step_bias", "decay.log_rate", "own", "conv.bias", "conv.weight"):
        mix = mix_of(40, causal=True)
        mix.get_parameter(name).add_(0.3)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(mix(*tensors, grid), want, rtol=1e-3, atol=1e-3)


def test_without_convolution_only_silu_is_left() -> None:
    q, k, v, x = inputs(2, HEADS, 30, WIDTH)
    mix, grid = mix_of(30, causal=True, conv_size=0), Grid(1, 30)
    with_one = mix_of(30, causal=True, conv_size=1)
    with_one.conv.weight.fill_(1.0)
    with_one.conv.bias.zero_()
    assert_close(mix(q, k, v, x, grid), with_one(q, k, v, x, grid), rtol=1e-12, atol=1e-13)


def test_causal_weights_are_those_of_the_form_for_all_tokens() -> None:
    shape = AttentionShape(2, Grid(1, 9), HEADS, WIDTH)
    causal = SPEC.build(replace(shape, causal=True))
    SPEC.build(shape).load_state_dict(causal.state_dict())


def test_the_start_is_that_of_the_authors() -> None:
    mix = SPEC.build(AttentionShape(1, Grid(1, 4), 64, 2)).mix
    step = torch.nn.functional.softplus(mix.decay.step_bias)
    assert 1e-3 <= step.min() < 0.01 < step.max() <= 0.1
    rate = mix.decay.log_rate.exp()
    assert 1 <= rate.min() < 4 < 12 < rate.max() <= 16
    assert torch.equal(mix.own, torch.ones(64))


def test_a_published_state_dict_finds_its_places() -> None:
    """in_proj holds gate, x, B, C and steps; the convolution x, B and C."""
    channels = HEADS * WIDTH
    rows = torch.arange(4 * channels + HEADS).unsqueeze(1).expand(-1, channels).float()
    official = {
        "in_proj.weight": rows,
        "conv1d.weight": torch.arange(3 * channels).float().view(-1, 1, 1).expand(-1, 1, 4),
        "conv1d.bias": torch.arange(3 * channels).float(),
        "out_proj.weight": torch.eye(channels),
        "norm.weight": torch.ones(channels),
        "D": torch.ones(HEADS),
        "dt_bias": torch.zeros(HEADS),
        "A_log": torch.zeros(HEADS),
    }
    layer = SPEC.build(AttentionShape(1, Grid(1, 4), HEADS, WIDTH))
    layer.load_state_dict(SPEC.adopt_official(official))
    assert layer.gate.weight[0, 0] == 0
    assert layer.qkv.weight[:, 0].tolist()[::channels] == [3 * channels, 2 * channels, channels]
    assert layer.mix.decay.step.weight[:, 0].tolist() == [4 * channels, 4 * channels + 1]
    assert layer.mix.conv.bias.tolist()[::channels] == [2 * channels, channels, 0]
    with pytest.raises(KeyError, match=r"init_states"):
        SPEC.adopt_official({**official, "init_states": torch.zeros(1)})


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="conv_size"):
        replace(SPEC.options, conv_size=-1)
