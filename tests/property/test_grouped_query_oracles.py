"""grouped_query against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from property.recurrent_oracles import inputs
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from bench.vector import built

SPEC = load("grouped_query")
SHAPE = AttentionShape(2, Grid(3, 5), 6, 4)


def head_by_head(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    out = torch.zeros_like(q)
    for head in range(q.shape[1]):
        group = head * k.shape[1] // q.shape[1]
        scores = q[:, head] @ k[:, group].mT / q.shape[-1] ** 0.5
        if causal:
            later = torch.ones(scores.shape[-2:]).triu(1).bool()
            scores[:, later] = float("-inf")
        out[:, head] = scores.softmax(-1) @ v[:, group]
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [1, 2, 3, 6])
def test_each_head_reads_its_group(key_heads: int, causal: bool) -> None:
    shape = replace(SHAPE, causal=causal)
    layer = built(SPEC, shape, replace(SPEC.options, key_heads=key_heads))
    x = inputs(2, 6, 15, 4)[3]
    q, k, v = layer.project(x)
    assert (q.shape[1], k.shape[1], v.shape[1]) == (6, key_heads, key_heads)
    want = layer.out(head_by_head(q, k, v, causal=causal).transpose(1, 2).flatten(2))
    assert_close(layer(x, shape.grid), want, rtol=1e-12, atol=1e-13)


def test_groups_in_another_order_are_told_apart() -> None:
    layer = built(SPEC, SHAPE, replace(SPEC.options, key_heads=2))
    x = inputs(2, 6, 15, 4)[3]
    q, k, v = layer.project(x)
    swapped = head_by_head(q, k.flip(1), v.flip(1), causal=False)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(layer.mix(q, k, v, x, SHAPE.grid), swapped, rtol=1e-3, atol=1e-3)


def test_repeated_projections_give_softmax_attention() -> None:
    """A layer of fewer key heads is softmax attention whose key heads are equal within a group."""
    layer = built(SPEC, SHAPE, replace(SPEC.options, key_heads=2))
    full = built(load("softmax"), SHAPE)
    q, k, v = layer.qkv.weight.split((24, 8, 8))
    repeated = [t.view(2, 4, 24).repeat_interleave(3, 0).flatten(0, 1) for t in (k, v)]
    state = {"qkv.weight": torch.cat((q, *repeated)), "out.weight": layer.out.weight}
    full.load_state_dict({**state, "out.bias": layer.out.bias})
    x = inputs(2, 6, 15, 4)[3]
    assert_close(layer(x, SHAPE.grid), full(x, SHAPE.grid), rtol=1e-12, atol=1e-13)


def test_fewer_key_heads_are_fewer_parameters_flops_and_floats_kept() -> None:
    one, all_ = (replace(SPEC.options, key_heads=n) for n in (1, 6))
    sizes = [sum(p.numel() for p in SPEC.build(SHAPE, o).parameters()) for o in (one, all_)]
    assert sizes[1] - sizes[0] == 2 * 24 * 20
    assert SPEC.flops(SHAPE, all_) - SPEC.flops(SHAPE, one) == 2 * 2 * 2 * 15 * 24 * 20
    assert SPEC.state_floats(SHAPE, all_) == 6 * SPEC.state_floats(SHAPE, one)
    softmax = load("softmax")
    assert SPEC.state_floats(SHAPE, all_) == softmax.state_floats(SHAPE, softmax.options)


def test_heads_that_do_not_divide_are_refused() -> None:
    options = replace(SPEC.options, key_heads=4)
    with pytest.raises(UnsupportedShape, match="key_heads is 4; it must divide the 6 heads"):
        SPEC.build(SHAPE, options)
    with pytest.raises(ValueError, match="key_heads"):
        replace(SPEC.options, key_heads=0)
