"""synthesizer against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from property.recurrent_oracles import inputs
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from bench.stimulus import normal
from bench.vector import built

SPEC = load("synthesizer")
SHAPE = AttentionShape(3, Grid(3, 4), 2, 5)
KINDS = ("factorized_random", "random", "dense")


def layer_of(kind: str, *, causal: bool = False):
    options = replace(SPEC.options, scores=kind, rank=6)
    return built(SPEC, replace(SHAPE, causal=causal), options)


def scores(kind: str, maker, x: Tensor, item: int, head: int) -> Tensor:
    if kind == "factorized_random":
        return maker.rows[:, head] @ maker.columns[:, head].T
    if kind == "random":
        return maker.scores[head]
    channels = slice(5 * head, 5 * head + 5)
    hidden = x[item] @ maker.hidden.weight[channels].T + maker.hidden.bias[channels]
    return hidden.clamp(min=0) @ maker.scores.weight.T + maker.scores.bias


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_formula_for_each_item_and_head(kind: str, causal: bool) -> None:
    q, k, v, x = inputs(3, 2, 12, 5)
    mix = layer_of(kind, causal=causal).mix
    want = torch.zeros_like(v)
    for item in range(3):
        for head in range(2):
            found = scores(kind, mix.scores, x, item, head)
            if causal:
                found = found.masked_fill(torch.ones(12, 12).triu(1).bool(), float("-inf"))
            want[item, head] = found.softmax(-1) @ v[item, head]
    assert_close(mix(q, k, v, x, SHAPE.grid), want, rtol=1e-12, atol=1e-13)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mix(q, k, v, x, SHAPE.grid), want.flip(2), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_queries_and_keys_play_no_part(kind: str) -> None:
    q, k, v, x = inputs(3, 2, 12, 5)
    mix = layer_of(kind).mix
    assert torch.equal(mix(q, k, v, x, SHAPE.grid), mix(9 * k, q + 1, v, x, SHAPE.grid))
    moved = mix(q, k, v, 2 * x, SHAPE.grid)
    assert torch.equal(mix(q, k, v, x, SHAPE.grid), moved) == (kind != "dense")


def test_one_projection_and_no_more() -> None:
    layer = layer_of("random")
    assert layer.qkv.weight.shape == (10, 10)
    first, second, third = layer.project(normal("x", (3, 12, 10), dtype=torch.float64))
    assert torch.equal(first, third)
    assert torch.equal(second, third)


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_state_dict_finds_its_places(kind: str) -> None:
    """Published kernels are stored inputs first, heads apart."""
    layer = layer_of(kind).float()
    official = {
        "value.kernel": normal("value", (10, 2, 5)),
        "value.bias": normal("bias", (2, 5)),
        "out.kernel": normal("out", (2, 5, 10)),
        "out.bias": normal("out_bias", (10,)),
    }
    if kind == "factorized_random":
        official |= {"random1": normal("r1", (2, 12, 6)), "random2": normal("r2", (2, 6, 12))}
    elif kind == "random":
        official |= {"random": normal("r", (2, 12, 12))}
    else:
        official |= {
            "dense_syn.kernel": normal("d1", (10, 2, 5)),
            "dense_syn.bias": normal("b1", (2, 5)),
            "dense_syn_len.kernel": normal("d2", (5, 12)),
            "dense_syn_len.bias": normal("b2", (12,)),
        }
    layer.load_state_dict(SPEC.adopt_official(official))
    x = normal("x", (3, 12, 10))
    value = torch.einsum("bnc,chd->bhnd", x, official["value.kernel"])
    value = value + official["value.bias"].unsqueeze(1)
    if kind == "factorized_random":
        found = torch.einsum("hlk,hkn->hln", official["random1"], official["random2"])
    elif kind == "random":
        found = official["random"]
    else:
        hidden = torch.einsum("bnc,chd->bhnd", x, official["dense_syn.kernel"])
        hidden = torch.relu(hidden + official["dense_syn.bias"].unsqueeze(1))
        found = hidden @ official["dense_syn_len.kernel"] + official["dense_syn_len.bias"]
    out = torch.einsum("bhnd,hdc->bnc", found.softmax(-1) @ value, official["out.kernel"])
    assert_close(layer(x, SHAPE.grid), out + official["out.bias"], rtol=1e-5, atol=1e-5)
    with pytest.raises(KeyError, match="random3"):
        SPEC.adopt_official({**official, "random3": torch.zeros(1)})


@pytest.mark.parametrize("grid", [Grid(4, 3), Grid(3, 5), Grid(2, 2)])
def test_another_grid_is_refused_even_with_as_many_tokens(grid: Grid) -> None:
    layer = layer_of("factorized_random")
    with pytest.raises(UnsupportedShape, match="build a layer for each grid"):
        layer(torch.zeros(3, grid.tokens, 10, dtype=torch.float64), grid)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="rank"):
        replace(SPEC.options, rank=0)
