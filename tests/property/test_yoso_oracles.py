"""yoso against what its mathematics must give."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.yoso import codes_of, collision_probability
from bench.stimulus import fill_parameters, normal

SPEC = load("yoso")
HEADS, WIDTH, TOKENS = 2, 8, 30
GRID = Grid(1, TOKENS)
SMALL = replace(SPEC.options, hashes=5, hash_bits=3)


def inputs() -> list[Tensor]:
    qkv = [normal(n, (2, HEADS, TOKENS, WIDTH), dtype=torch.float64) for n in "qkv"]
    return [*qkv, torch.zeros(2, TOKENS, HEADS * WIDTH, dtype=torch.float64)]


def layer(options: Any) -> Any:
    built = SPEC.build(AttentionShape(2, GRID, HEADS, WIDTH), options).double()
    fill_parameters(built)
    return built


def collisions(q: Tensor, k: Tensor, directions: Tensor, options: Any) -> Tensor:
    """Share of hashes in which query and key have the same signs, pair by pair."""
    signs = [(t @ directions > 0).unflatten(-1, (options.hashes, -1)) for t in (q, k)]
    same = (signs[0].unsqueeze(3) == signs[1].unsqueeze(2)).all(-1)
    return same.to(q.dtype).mean(-1)


@pytest.mark.parametrize("bits", [1, 3, 9])
def test_tables_give_the_share_of_collisions(bits: int) -> None:
    options = replace(SMALL, hash_bits=bits)
    q, k, v, x = inputs()
    mix = layer(options).mix
    weights = collisions(q, k, mix.directions, options)
    got = mix(q, k, v, x, GRID)
    assert_close(got, F.normalize(weights @ v, dim=-1))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, F.normalize(weights.mT @ v, dim=-1))


def test_expectation_is_the_formula() -> None:
    q, k, v, x = inputs()
    got = layer(replace(SMALL, estimator="expectation")).mix(q, k, v, x, GRID)
    cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    weights = (1 - torch.acos(0.98 * cosines) / math.pi) ** 3
    assert_close(got, F.normalize(weights @ v, dim=-1))
    plain = (1 - torch.acos(cosines) / math.pi) ** 3
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, F.normalize(plain @ v, dim=-1))


def test_many_hashes_come_near_their_expectation() -> None:
    q, k, _, _ = inputs()
    want = collision_probability(F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT, 3)

    def error(hashes: int) -> float:
        options = replace(SMALL, hashes=hashes)
        shares = collisions(q, k, layer(options).mix.directions, options)
        return float((shares - want).square().mean().sqrt())

    assert error(4096) < 0.02 < error(16) < 0.2


@pytest.mark.parametrize("length", [TOKENS, 3])
def test_gradients_are_those_published(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values: through the same collisions; queries and keys: a bound of the expectation."""
    monkeypatch.setattr("attention_impls.variants.yoso._SEGMENT_TOKENS", length)
    q, k, v, x = (t.requires_grad_() for t in inputs())
    options = SMALL
    mix = layer(options).mix
    unit_q, unit_k = (F.normalize(t, dim=-1) for t in (q, k))
    shares = collisions(q, k, mix.directions, options)
    probability = collision_probability(unit_q @ unit_k.mT, options.hash_bits).detach()
    value = shares.detach() @ v
    # a function with the value of the sampled one and the gradient of the bound
    slope = (options.hash_bits / 2) * probability * (unit_q @ unit_k.mT) @ v.detach()
    want = F.normalize(value + slope - slope.detach(), dim=-1)
    got = mix(q, k, v, x, GRID)
    assert_close(got, want)
    upstream = normal("upstream", tuple(got.shape), dtype=torch.float64)
    found = torch.autograd.grad(got, (q, k, v), upstream)
    expected = torch.autograd.grad(want, (q, k, v), upstream)
    assert_close(found, expected)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(found[0], 2 * expected[0])


def test_codes_are_binary_numbers_of_signs() -> None:
    heads = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
    directions = torch.tensor([[[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]]])
    assert codes_of(heads, directions, 2).tolist() == [[[[1, 0], [2, 2]]]]


@torch.no_grad()
def test_the_convolution_runs_along_the_tokens() -> None:
    q, k, v, x = inputs()
    built = layer(replace(SMALL, conv_size=3))
    plain = F.normalize(collisions(q, k, built.mix.directions, SMALL) @ v, dim=-1)
    want = torch.zeros_like(v)
    for i in range(TOKENS):
        for at, j in enumerate(range(i - 1, i + 2)):
            if 0 <= j < TOKENS:
                want[:, :, i] += built.mix.conv[:, 0, at, 0, None] * v[:, :, j]
    assert_close(built.mix(q, k, v, x, GRID) - plain, want)


@pytest.mark.parametrize("wrong", [{"hashes": 0}, {"hash_bits": 21}, {"conv_size": 2}])
def test_options_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(SMALL, **wrong)
