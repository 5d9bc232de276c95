"""lion against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from property.recurrent_oracles import LENGTHS, inputs
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from bench.vector import built

SPEC = load("lion")
HEADS, WIDTH = 2, 4
DECAYS = ("selective", "fixed", "none")


def mix_of(tokens: int, decay: str, extra: int = 0):
    shape = AttentionShape(2, Grid(1, tokens - extra), HEADS, WIDTH, extra_tokens=extra)
    return built(SPEC, shape, replace(SPEC.options, decay=decay)).mix


def mask(mix, x: Tensor, extra: int) -> Tensor:
    """M of the module docstring: a product over the tokens between each pair, one by one."""
    tokens = x.shape[1]
    if mix.gate is not None:
        own = 1 - torch.sigmoid(x @ mix.gate.weight.T + mix.gate.bias).transpose(1, 2)
        own[:, :, :extra] = 1
    elif mix.decay is not None:
        own = torch.sigmoid(mix.decay).view(1, -1, 1).expand(x.shape[0], -1, tokens)
    else:
        own = torch.ones(x.shape[0], HEADS, tokens, dtype=x.dtype)
    out = torch.ones(x.shape[0], HEADS, tokens, tokens, dtype=x.dtype)
    for i in range(tokens):
        for j in range(tokens):
            between = own[:, :, j:i] if j < i else own[:, :, i + 1 : j + 1]
            out[:, :, i, j] = between.prod(-1)
    return out


def features(mix, t: Tensor) -> Tensor:
    if mix.gate is None and mix.decay is None:
        return torch.where(t > 0, t + 1, t.exp())
    shifted = t * torch.sigmoid(t) + 0.5
    return shifted / shifted.norm(dim=-1, keepdim=True)


def dense(mix, q: Tensor, k: Tensor, v: Tensor, x: Tensor, extra: int = 0) -> Tensor:
    weights = features(mix, q) @ features(mix, k).mT / WIDTH**0.5 * mask(mix, x, extra)
    return weights @ v / (weights.sum(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("tokens", "extra"), [(1, 0), (2, 1), (5, 0), (65, 1), (66, 3)])
def test_chunks_equal_the_masked_matrix(tokens: int, extra: int, decay: str) -> None:
    tensors = inputs(2, HEADS, tokens, WIDTH)
    mix, grid = mix_of(tokens, decay, extra), Grid(1, tokens - extra)
    assert_close(mix(*tensors, grid), dense(mix, *tensors, extra), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("decay", ["selective", "fixed"])
def test_other_decays_are_told_apart(decay: str) -> None:
    q, k, v, x = inputs(2, HEADS, 30, WIDTH)
    mix, grid = mix_of(30, decay), Grid(1, 30)
    want = dense(mix_of(30, "none"), q, k, v, x)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, x, grid), want, rtol=1e-3, atol=1e-3)
    if decay == "selective":  # extra tokens have no decay, so they are not grid tokens
        want = dense(mix, q, k, v, 5 * x, extra=4)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(mix(q, k, v, 5 * x, grid), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_a_sequence_read_backwards_gives_the_outputs_backwards(tokens: int) -> None:
    tensors, grid = inputs(2, HEADS, tokens, WIDTH), Grid(1, tokens)
    mix = mix_of(tokens, "selective")
    mirrored = mix(*(t.flip(2 if t.ndim == 4 else 1) for t in tensors), grid)
    assert_close(mirrored.flip(2), mix(*tensors, grid), rtol=1e-10, atol=1e-11)


def test_closed_gates_leave_each_token_alone() -> None:
    q, k, v, x = (t.float() for t in inputs(2, HEADS, 200, WIDTH))
    mix = mix_of(200, "selective").float()
    mix.gate.bias.fill_(3000.0)
    out = mix(q, k, v, x, Grid(1, 200))
    assert_close(out, v, rtol=1e-4, atol=1e-4)


def test_unknown_decays_have_no_parameters_to_load_into() -> None:
    states = {decay: set(mix_of(4, decay).state_dict()) for decay in DECAYS}
    assert states == {
        "selective": {"gate.weight", "gate.bias"},
        "fixed": {"decay"},
        "none": set(),
    }
