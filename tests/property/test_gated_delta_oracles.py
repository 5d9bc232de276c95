"""gated_delta against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from property.recurrent_oracles import LENGTHS, convolved, decayed_scan, delta_scan, inputs
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.gated_delta import gated_delta_rule
from bench.vector import built

SPEC = load("gated_delta")
HEADS, WIDTH = 2, 4


def mix_of(tokens: int, *, causal: bool = False, **options):
    shape = AttentionShape(2, Grid(1, tokens), HEADS, WIDTH, causal=causal)
    return built(SPEC, shape, replace(SPEC.options, **options)).mix


def terms(mix, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """What the recurrence takes, from the parameters, causal."""
    weights = mix.conv.weight.chunk(3)
    q, k, v = (convolved(t, w, None) for t, w in zip((q, k, v), weights, strict=True))
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    step = torch.log(1 + torch.exp(x @ mix.decay.step.weight.T + mix.decay.step_bias))
    decay = torch.exp(-torch.exp(mix.decay.log_rate) * step)
    write = torch.sigmoid(x @ mix.write.weight.T)
    by_head = (t.transpose(1, 2).unsqueeze(-1) for t in (decay, write))
    return (q / WIDTH**0.5, k, v, *by_head)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_chunks_equal_the_recurrence_and_the_mean_of_both_ways(tokens: int) -> None:
    q, k, v, x = inputs(2, HEADS, tokens, WIDTH)
    mix, grid = mix_of(tokens, causal=True), Grid(1, tokens)
    ahead = delta_scan(*terms(mix, q, k, v, x))
    assert_close(mix(q, k, v, x, grid), ahead, rtol=1e-9, atol=1e-10)
    mirrored = [t.flip(2) for t in (q, k, v)] + [x.flip(1)]
    back = delta_scan(*terms(mix, *mirrored)).flip(2)
    got = mix_of(tokens)(q, k, v, x, grid)
    assert_close(got, (ahead + back) / 2, rtol=1e-9, atol=1e-10)


def test_what_is_not_overwritten_is_told_apart() -> None:
    """Without the erasing term it would be a gated linear attention."""
    q, k, v, x = inputs(2, HEADS, 40, WIDTH)
    mix = mix_of(40, causal=True)
    q1, k1, v1, decay, write = terms(mix, q, k, v, x)
    want = decayed_scan(q1, k1 * write, v1, decay)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, x, Grid(1, 40)), want, rtol=1e-3, atol=1e-3)


def test_writing_fully_stores_the_last_value_of_a_key() -> None:
    """b = 1 and a = 1: reading with a key gives the value written with it last."""
    _, _, v, _ = inputs(1, 1, 100, WIDTH)
    keys = torch.eye(WIDTH, dtype=torch.float64)[torch.arange(100) % WIDTH].view(1, 1, 100, WIDTH)
    ones = torch.ones(1, 1, 100, 1, dtype=torch.float64)
    out = gated_delta_rule(keys.roll(1, 2), keys, v, 0 * ones, ones)
    assert_close(out[:, :, 1:], v[:, :, :-1], rtol=1e-12, atol=1e-12)


def test_equal_keys_do_not_blow_up() -> None:
    """The inverse of a chunk's system has large entries only where its powers are taken."""
    _, _, v, _ = inputs(1, 1, 200, WIDTH)
    keys = torch.full((1, 1, 200, WIDTH), WIDTH**-0.5, dtype=torch.float64)
    ones = torch.ones(1, 1, 200, 1, dtype=torch.float64)
    tensors = (keys, keys, v, 0 * ones, 0.99 * ones)
    want = delta_scan(*tensors[:3], ones, tensors[4])
    assert_close(gated_delta_rule(*tensors), want, rtol=1e-10, atol=1e-11)
    single = gated_delta_rule(*(t.float() for t in tensors))
    assert_close(single.double(), want, rtol=1e-4, atol=1e-5)


def test_both_ways_is_the_mean_of_the_causal_mix_and_its_mirror_image() -> None:
    tensors, grid = inputs(2, HEADS, 100, WIDTH), Grid(1, 100)
    for options in ({}, {"conv_size": 0}):
        causal = mix_of(100, causal=True, **options)
        ahead = causal(*tensors, grid)
        mirrored = [t.flip(2 if t.ndim == 4 else 1) for t in tensors]
        back = causal(*mirrored, grid).flip(2)
        got = mix_of(100, **options)(*tensors, grid)
        assert_close(got, (ahead + back) / 2, rtol=1e-10, atol=1e-11)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(got, ahead, rtol=1e-3, atol=1e-3)


def test_causal_weights_are_those_of_the_form_for_all_tokens() -> None:
    shape = AttentionShape(2, Grid(1, 9), HEADS, WIDTH)
    causal = SPEC.build(replace(shape, causal=True))
    SPEC.build(shape).load_state_dict(causal.state_dict())


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="conv_size"):
        replace(SPEC.options, conv_size=-1)
