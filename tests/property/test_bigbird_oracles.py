"""bigbird against what its mathematics must give."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.bigbird import BigBirdOptions, allowed_blocks, drawn_blocks
from bench.counting import fvcore_flops, torch_flops
from bench.stimulus import normal

SPEC = load("bigbird")
HEADS, WIDTH = 2, 4
SMALL = BigBirdOptions(block_tokens=4)


def mixed(tokens: int, options: BigBirdOptions) -> tuple[Tensor, list[Tensor]]:
    qkv = [normal(n, (2, HEADS, tokens, WIDTH), dtype=torch.float64) for n in "qkv"]
    x = torch.zeros(2, tokens, HEADS * WIDTH, dtype=torch.float64)
    grid = Grid(1, tokens)
    layer: Any = SPEC.build(AttentionShape(2, grid, HEADS, WIDTH), options).double()
    return layer.mix(*qkv, x, grid), qkv


def dense(qkv: list[Tensor], options: BigBirdOptions) -> Tensor:
    """All scores; each token looks up what its block sees."""
    q, k, v = qkv
    tokens, size = q.shape[2], options.block_tokens
    blocks = -(-tokens // size)
    drawn = drawn_blocks(HEADS, blocks, options) if blocks > 11 else None
    hidden = torch.zeros(HEADS, tokens, tokens, dtype=torch.bool)
    for head in range(HEADS if drawn else 0):
        for i in range(tokens):
            row = i // size
            if row in (0, blocks - 1):
                continue
            seen = {0, row - 1, row, row + 1, blocks - 1, *drawn[head][row - 1]}
            hidden[head, i] = torch.tensor([j // size not in seen for j in range(tokens)])
    scores = (q @ k.mT * WIDTH**-0.5).masked_fill(hidden, float("-inf"))
    return scores.softmax(-1) @ v


@settings(max_examples=20)
@given(tokens=st.integers(1, 90), seed=st.integers(0, 3), everywhere=st.booleans())
def test_gathered_blocks_give_the_dense_form(tokens: int, seed: int, *, everywhere: bool) -> None:
    options = replace(SMALL, seed=seed, random_from="all_blocks" if everywhere else "first_blocks")
    got, qkv = mixed(tokens, options)
    assert_close(got, dense(qkv, options))


def test_other_random_blocks_are_told_apart() -> None:
    got, qkv = mixed(80, SMALL)
    for other in (replace(SMALL, seed=1), replace(SMALL, random_from="all_blocks")):
        with pytest.raises(AssertionError, match="not close"):
            assert_close(got, dense(qkv, other))


def test_up_to_eleven_blocks_all_see_all() -> None:
    for tokens, full in ((44, True), (45, False)):
        got, (q, k, v) = mixed(tokens, SMALL)
        softmax = (q @ k.mT * WIDTH**-0.5).softmax(-1) @ v
        assert bool((got - softmax).abs().max() < 1e-9) == full


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize(("blocks", "count"), [(12, 3), (13, 3), (40, 3), (30, 5), (8, 1), (20, 0)])
def test_random_blocks_are_others_than_those_seen_anyway(
    blocks: int, count: int, *, everywhere: bool
) -> None:
    options = BigBirdOptions(
        random_blocks=count, random_from="all_blocks" if everywhere else "first_blocks"
    )
    table = drawn_blocks(3, blocks, options)
    assert len(table) == 3
    for rows in table:
        assert len(rows) == blocks - 2
        for row, drawn in enumerate(rows, 1):
            assert len(set(drawn)) == count
            assert not {0, row - 1, row, row + 1, blocks - 1} & set(drawn)
            assert set(drawn) <= set(allowed_blocks(row, blocks, options))
            assert everywhere or all(block < 2 * count + 5 for block in drawn)
    if count:
        assert len(set(table)) == 3, "heads draw alike"


def test_random_blocks_are_pinned() -> None:
    """Older results stay comparable only if the same blocks are drawn."""
    assert drawn_blocks(1, 14, BigBirdOptions())[0][:3] == ((6, 8, 3), (6, 8, 7), (7, 6, 9))


def test_flops_of_long_sequences_are_those_counted() -> None:
    shape = AttentionShape(2, Grid(1, 81), 2, 4, extra_tokens=1)
    layer = SPEC.build(shape, SMALL)
    counted = {torch_flops(layer, shape), fvcore_flops(layer, shape).flops}
    assert counted == {SPEC.flops(shape, SMALL)}
    assert SPEC.flops(shape, replace(SMALL, random_blocks=2)) not in counted


def test_a_layer_also_works_on_longer_sequences() -> None:
    layer: Any = SPEC.build(AttentionShape(1, Grid(1, 9), HEADS, WIDTH), SMALL).double()
    _, qkv = mixed(80, SMALL)
    x = torch.zeros(2, 80, HEADS * WIDTH, dtype=torch.float64)
    assert_close(layer.mix(*qkv, x, Grid(1, 80)), dense(qkv, SMALL))


@pytest.mark.parametrize(
    ("wrong", "said"), [({"block_tokens": 0}, "block_tokens"), ({"random_blocks": -1}, "random")]
)
def test_options_out_of_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **wrong)
