"""reformer against what its mathematics must give."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.reformer import ReformerOptions, rotations
from bench.counting import fvcore_flops, torch_flops
from bench.stimulus import normal

SPEC = load("reformer")
HEADS, WIDTH = 2, 8
SMALL = ReformerOptions(bucket_tokens=4, rounds=3)


def mixed(tokens: int, options: ReformerOptions) -> tuple[Tensor, Tensor, Tensor]:
    q, v = (normal(n, (2, HEADS, tokens, WIDTH), dtype=torch.float64) for n in "qv")
    x = torch.zeros(2, tokens, HEADS * WIDTH, dtype=torch.float64)
    grid = Grid(1, tokens)
    layer: Any = SPEC.build(AttentionShape(2, grid, HEADS, WIDTH), options).double()
    return layer.mix(q, q, v, x, grid), q, v


def orders(q: Tensor, options: ReformerOptions) -> list[list[tuple[int, int]]]:
    """Bucket and place of each token, sorted, in each round; zeros behind the last token."""
    size = options.bucket_tokens
    tokens = q.shape[0]
    padded = -(-tokens // (2 * size)) * 2 * size
    filled = torch.cat((q, q.new_zeros(padded - tokens, WIDTH)))
    matrix = rotations(WIDTH, padded // size, options).to(q.dtype)
    found: list[list[tuple[int, int]]] = []
    for turn in range(options.rounds):
        turned = filled @ matrix[:, turn]
        buckets = torch.cat((turned, -turned), -1).argmax(-1).tolist()
        found.append(sorted(zip(buckets, range(padded), strict=True)))
    return found


def one_head(q: Tensor, v: Tensor, options: ReformerOptions) -> Tensor:
    """Token by token: what it sees in each round, and the rounds together."""
    tokens, size = q.shape[0], options.bucket_tokens
    unit = q / q.norm(dim=-1, keepdim=True)
    rounds = orders(q, options)
    outs: list[list[Tensor]] = [[] for _ in range(tokens)]
    sums: list[list[Tensor]] = [[] for _ in range(tokens)]
    for turn, order in enumerate(rounds):
        last = [(b - 10**6 * (len(rounds) > 1), i) for b, i in rounds[turn - 1][-size:]]
        for at, (bucket, i) in enumerate(order):
            if i >= tokens:
                continue
            chunk = at // size
            before = order[(chunk - 1) * size : chunk * size] if chunk else last
            logits: list[Tensor] = []
            values: list[Tensor] = []
            for other, j in order[chunk * size : (chunk + 1) * size] + before:
                if j >= tokens or (other != bucket and not options.across_buckets):
                    continue
                score = unit[j] @ q[i] / WIDTH**0.5
                logits.append(torch.full_like(score, -5e4) if i == j else score)
                values.append(v[j])
            stacked = torch.stack(logits)
            outs[i].append(stacked.softmax(0) @ torch.stack(values))
            sums[i].append(stacked.logsumexp(0))
    return torch.stack(
        [torch.stack(s).softmax(0) @ torch.stack(o) for s, o in zip(sums, outs, strict=True)]
    )


@settings(max_examples=12)
@given(
    tokens=st.integers(5, 40),
    rounds=st.integers(1, 3),
    across=st.booleans(),
    seed=st.integers(0, 2),
)
def test_chunks_give_what_each_token_sees(
    tokens: int, rounds: int, seed: int, *, across: bool
) -> None:
    options = replace(SMALL, rounds=rounds, across_buckets=across, seed=seed)
    got, q, v = mixed(tokens, options)
    assert_close(got[1, 1], one_head(q[1, 1], v[1, 1], options))


def test_another_setting_is_told_apart() -> None:
    got, q, v = mixed(40, SMALL)
    assert_close(got[0, 0], one_head(q[0, 0], v[0, 0], SMALL))
    for other in ({"seed": 5}, {"rounds": 2}, {"across_buckets": False}, {"bucket_tokens": 5}):
        with pytest.raises(AssertionError, match="not close"):
            assert_close(got[0, 0], one_head(q[0, 0], v[0, 0], replace(SMALL, **other)))


@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_no_more_than_a_bucket_see_all_others(tokens: int) -> None:
    got, q, v = mixed(tokens, SMALL)
    unit = q / q.norm(dim=-1, keepdim=True)
    scores = q @ unit.mT / WIDTH**0.5
    scores = scores.masked_fill(torch.eye(tokens, dtype=torch.bool), -5e4)
    assert_close(got, scores.softmax(-1) @ v)


def test_rotations_are_pinned() -> None:
    """Older results stay comparable only if the same rotations are drawn."""
    want = [1.5409960746765137, -0.293428897857666, -2.1787893772125244, 0.5684312582015991]
    assert rotations(2, 4, ReformerOptions(rounds=1)).flatten().tolist() == pytest.approx(want)


def test_a_layer_also_works_on_other_lengths() -> None:
    grid = Grid(1, 40)
    x = torch.zeros(2, 40, HEADS * WIDTH, dtype=torch.float64)
    want, q, v = mixed(40, SMALL)
    for tokens in (3, 24, 41):
        shape = AttentionShape(1, Grid(1, tokens), HEADS, WIDTH)
        layer: Any = SPEC.build(shape, SMALL).double()
        assert_close(layer.mix(q, q, v, x, grid), want)


def test_flops_are_those_counted() -> None:
    shape = AttentionShape(2, Grid(1, 45), 2, 8)
    layer = SPEC.build(shape, SMALL)
    counted = {torch_flops(layer, shape), fvcore_flops(layer, shape).flops}
    assert counted == {SPEC.flops(shape, SMALL)}
    assert SPEC.flops(shape, replace(SMALL, rounds=2)) not in counted


def test_the_masked_form_is_refused() -> None:
    with pytest.raises(UnsupportedShape, match="no causal form"):
        SPEC.build(AttentionShape(1, Grid(1, 9), HEADS, WIDTH, causal=True))


@pytest.mark.parametrize("wrong", [{"bucket_tokens": 0}, {"rounds": 0}])
def test_options_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        replace(SMALL, **wrong)
