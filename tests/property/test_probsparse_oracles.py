"""probsparse against what its mathematics must give."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.probsparse import sample_count, sampled_keys
from bench.stimulus import normal

SPEC = load("probsparse")
HEADS, WIDTH = 2, 8


def mixed(tokens: int, options: Any) -> tuple[Tensor, list[Tensor]]:
    qkv = [normal(n, (2, HEADS, tokens, WIDTH), dtype=torch.float64) for n in "qkv"]
    x = torch.zeros(2, tokens, HEADS * WIDTH, dtype=torch.float64)
    grid = Grid(1, tokens)
    layer: Any = SPEC.build(AttentionShape(2, grid, HEADS, WIDTH), options).double()
    return layer.mix(*qkv, x, grid), qkv


def by_definition(qkv: list[Tensor], options: Any) -> Tensor:
    q, k, v = qkv
    tokens = q.shape[2]
    samples = sampled_keys(tokens, options)
    count = max(1, min(tokens, options.factor * math.ceil(math.log(tokens))))
    assert samples.shape == (tokens, count)
    out = torch.empty_like(v)
    for item in range(2):
        for head in range(HEADS):
            measures: list[float] = []
            for i in range(tokens):
                scores = k[item, head, samples[i]] @ q[item, head, i]
                many = tokens if options.divisor == "keys" else count
                measures.append(float(scores.max() - scores.sum() / many))
            order = sorted(range(tokens), key=lambda i: -measures[i])
            for rank, i in enumerate(order):
                weights = (k[item, head] @ q[item, head, i] / WIDTH**0.5).softmax(0)
                attended = rank < count
                out[item, head, i] = weights @ v[item, head] if attended else v[item, head].mean(0)
    return out


@pytest.mark.parametrize("divisor", ["keys", "samples"])
@pytest.mark.parametrize("tokens", [1, 2, 6, 60, 600])
def test_equals_the_definition(tokens: int, divisor: Any) -> None:
    options = replace(SPEC.options, divisor=divisor, factor=3)
    if tokens == 600:
        options = replace(options, factor=1)
    got, qkv = mixed(tokens, options)
    assert_close(got, by_definition(qkv, options))


def test_another_choice_is_told_apart() -> None:
    got, qkv = mixed(60, SPEC.options)
    for other in ({"seed": 1}, {"divisor": "samples"}, {"factor": 4}):
        with pytest.raises(AssertionError, match="not close"):
            assert_close(got, by_definition(qkv, replace(SPEC.options, **other)))


def test_short_sequences_have_softmax_attention() -> None:
    got, (q, k, v) = mixed(10, SPEC.options)
    assert_close(got, (q @ k.mT / WIDTH**0.5).softmax(-1) @ v)


@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (3, 3), (196, 30), (3136, 45), (65536, 60)])
def test_queries_that_attend_grow_with_the_logarithm(tokens: int, count: int) -> None:
    assert sample_count(tokens, SPEC.options) == count


def test_samples_are_pinned() -> None:
    """Older results stay comparable only if the same keys are drawn."""
    assert sampled_keys(196, SPEC.options)[0, :6].tolist() == [60, 87, 189, 72, 15, 163]


def test_the_masked_form_is_refused() -> None:
    with pytest.raises(UnsupportedShape, match="no causal form"):
        SPEC.build(AttentionShape(1, Grid(1, 9), HEADS, WIDTH, causal=True))


def test_a_factor_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="factor is 0"):
        replace(SPEC.options, factor=0)
