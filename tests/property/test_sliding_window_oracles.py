"""sliding_window against what its mathematics must give."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.sliding_window import SlidingWindowOptions, blocks_of
from bench.counting import fvcore_flops, torch_flops
from bench.stimulus import fill_parameters, normal

SPEC = load("sliding_window")
HEADS, WIDTH = 2, 4


def built(tokens: int, window: int, *, causal: bool = False, extra: int = 0) -> Any:
    shape = AttentionShape(2, Grid(1, tokens), HEADS, WIDTH, extra_tokens=extra, causal=causal)
    layer = SPEC.build(shape, SlidingWindowOptions(window_tokens=window)).double()
    fill_parameters(layer)
    return layer


def inputs(tokens: int) -> list[Tensor]:
    heads = [normal(n, (2, HEADS, tokens, WIDTH), dtype=torch.float64) for n in "qkv"]
    return [*heads, normal("x", (2, tokens, HEADS * WIDTH), dtype=torch.float64)]


def dense(
    q: Tensor, k: Tensor, v: Tensor, window: int, *, causal: bool = False, extra: int = 0
) -> Tensor:
    """All scores, those outside the window without weight; rows of extra tokens are not right."""
    tokens = q.shape[2]
    hidden = torch.ones(tokens, tokens, dtype=torch.bool)
    for i in range(tokens):
        for j in range(tokens):
            inside = abs(i - j) <= window and not (causal and j > i)
            hidden[i, j] = not (inside or j < extra)
    scores = (q @ k.mT * WIDTH**-0.5).masked_fill(hidden, float("-inf"))
    return scores.softmax(-1) @ v


@given(tokens=st.integers(1, 40), window=st.integers(1, 9), causal=st.booleans())
def test_blocks_give_the_dense_form(tokens: int, window: int, *, causal: bool) -> None:
    *qkv, x = inputs(tokens)
    got = built(tokens, window, causal=causal).mix(*qkv, x, Grid(1, tokens))
    assert_close(got, dense(*qkv, window, causal=causal))


@pytest.mark.parametrize("causal", [False, True])
def test_another_window_is_told_apart(*, causal: bool) -> None:
    *qkv, x = inputs(40)
    got = built(40, 4, causal=causal).mix(*qkv, x, Grid(1, 40))
    for other in (3, 5):
        with pytest.raises(AssertionError, match="not close"):
            assert_close(got, dense(*qkv, other, causal=causal))


@pytest.mark.parametrize("tokens", [1200, 2500])
def test_more_than_one_segment(tokens: int) -> None:
    *qkv, x = inputs(tokens)
    got = built(tokens, 8).mix(*qkv, x, Grid(1, tokens))
    for start in (0, tokens // 2, 1016, tokens - 40):
        part = slice(max(0, start - 8), start + 40)
        want = dense(*(t[:, :, part] for t in qkv), 8)
        own = slice(start, min(tokens, start + 32) - (8 if start + 40 < tokens else 0))
        offset = start - part.start
        assert_close(got[:, :, own], want[:, :, offset : offset + own.stop - own.start])


@pytest.mark.parametrize(("tokens", "window"), [(6, 2), (30, 3), (1100, 4)])
@torch.no_grad()
def test_extra_tokens_are_seen_by_all_and_see_all(tokens: int, window: int) -> None:
    extra = 2
    *qkv, x = inputs(tokens + extra)
    layer = built(tokens, window, extra=extra)
    got = layer.mix(*qkv, x, Grid(1, tokens))
    few = 60
    near = [t[:, :, : extra + few] for t in qkv]
    want = dense(*near, window, extra=extra)[:, :, extra:]
    sure = few - window if tokens > few else tokens
    assert_close(got[:, :, extra : extra + sure], want[:, :, :sure])
    whole = layer.mix.whole
    q, k, v = (
        m(x).unflatten(2, (HEADS, WIDTH)).transpose(1, 2)
        for m in (whole.query, whole.key, whole.value)
    )
    want = (q[:, :, :extra] @ k.mT * WIDTH**-0.5).softmax(-1) @ v
    assert_close(got[:, :, :extra], want)


def test_causal_with_class_tokens_is_refused() -> None:
    with pytest.raises(UnsupportedShape, match="no causal form with class tokens"):
        built(10, 2, causal=True, extra=1)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window_tokens is 0, must be >= 1"):
        SlidingWindowOptions(window_tokens=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 2, 7, 256])
def test_blocks_cover_the_window_and_little_more(window: int, *, causal: bool) -> None:
    blocks = blocks_of(window, causal=causal)
    seen = (window if causal else 2 * window) + 1
    assert seen <= blocks.keys < 2 * seen
    assert blocks.before * blocks.size >= window


@pytest.mark.parametrize(("extra", "causal"), [(0, False), (0, True), (3, False)])
def test_flops_of_long_sequences_are_those_counted(extra: int, *, causal: bool) -> None:
    shape = AttentionShape(2, Grid(1, 1500), 2, 4, extra_tokens=extra, causal=causal)
    options = SlidingWindowOptions(window_tokens=20)
    layer = SPEC.build(shape, options)
    counted = {torch_flops(layer, shape), fvcore_flops(layer, shape).flops}
    assert counted == {SPEC.flops(shape, options)}
    assert SPEC.flops(shape, SlidingWindowOptions(window_tokens=22)) not in counted
