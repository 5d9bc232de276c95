"""luna against what its mathematics must give."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.luna import LunaOptions
from bench.stimulus import fill_parameters, normal

SPEC = load("luna")
HEADS, WIDTH, BATCH = 2, 4, 2
CHANNELS = HEADS * WIDTH


def built(tokens: int, options: LunaOptions, *, causal: bool = False) -> Any:
    shape = AttentionShape(BATCH, Grid(1, tokens), HEADS, WIDTH, causal=causal)
    layer = SPEC.build(shape, options).double()
    fill_parameters(layer)
    return layer


def heads_of(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, WIDTH)).transpose(-3, -2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of streams, heads together: [..., tokens, channels]."""
    scores = heads_of(q) @ heads_of(k).mT / WIDTH**0.5
    return (scores.softmax(-1) @ heads_of(v)).transpose(-3, -2).flatten(-2)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_two_attentions_in_a_row(*, tied: bool) -> None:
    layer = built(20, LunaOptions(memory_tokens=5, tied_keys_values=tied))
    x = normal("x", (BATCH, 20, CHANNELS), dtype=torch.float64)
    maps = layer.qkv(x).split(CHANNELS, -1)
    memory = layer.mix.memory
    packed = attention(memory.query(memory.tokens), maps[1], maps[-1])
    keys_values = layer.mix.packed(packed).split(CHANNELS, -1)
    want = layer.out(attention(maps[0], keys_values[0], keys_values[-1]))
    assert_close(layer(x, Grid(1, 20)), want)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(layer(x, Grid(1, 20)), layer.out(attention(maps[0], packed, packed)))
    assert len(maps) == (2 if tied else 3)


@pytest.mark.parametrize("tokens", [1, 3, 64, 65, 140])
@torch.no_grad()
def test_causal_form_is_the_recurrence(tokens: int) -> None:
    layer = built(tokens, LunaOptions(memory_tokens=5), causal=True)
    x = normal("x", (BATCH, tokens, CHANNELS), dtype=torch.float64)
    q, packing = layer.qkv(x).split(CHANNELS, -1)
    memory = heads_of(layer.mix.memory.query(layer.mix.memory.tokens)) / WIDTH**0.5
    a = torch.log2(1 + 2 ** (heads_of(packing) @ memory.mT))
    c, q = heads_of(layer.mix.packed(x)), heads_of(q) / WIDTH**0.5
    sums = x.new_zeros(BATCH, HEADS, WIDTH, 5)
    outs: list[Tensor] = []
    for i in range(tokens):
        sums = sums + c[:, :, i, :, None] * a[:, :, i, None]
        weights = ((q[:, :, i, None] @ sums).squeeze(-2) / (i + 1)).softmax(-1)
        outs.append((sums @ weights.unsqueeze(-1)).squeeze(-1) / (i + 1))
    want = layer.out(torch.stack(outs, 1).flatten(2))
    assert_close(layer(x, Grid(1, tokens)), want)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(layer(x.flip(-1), Grid(1, tokens)), want)


def test_the_same_weights_serve_both_forms() -> None:
    both, causal = (built(9, LunaOptions(), causal=c) for c in (False, True))
    assert list(both.state_dict()) == list(causal.state_dict())


def test_published_names_are_mapped() -> None:
    names = ("q_proj", "pc_proj", "pq_proj", "c_proj", "out_proj")
    official = {
        f"{name}.{kind}": torch.full((CHANNELS, CHANNELS)[: 2 - (kind == "bias")], float(i))
        for i, name in enumerate(names)
        for kind in ("weight", "bias")
    }
    official["projected_embeddings"] = torch.ones(16, CHANNELS)
    layer = built(9, LunaOptions())
    layer.load_state_dict(SPEC.adopt_official(official))
    assert_close(layer.mix.packed.bias, torch.full((CHANNELS,), 3.0, dtype=torch.float64))
    apart = {k: v for k, v in official.items() if not k.startswith(("pc_proj", "c_proj"))}
    for i, name in enumerate(("pk_proj", "pv_proj", "k_proj", "v_proj")):
        apart[f"{name}.weight"] = torch.full((CHANNELS, CHANNELS), 10.0 + i)
        apart[f"{name}.bias"] = torch.full((CHANNELS,), 10.0 + i)
    layer = built(9, LunaOptions(tied_keys_values=False))
    layer.load_state_dict(SPEC.adopt_official(apart))
    values = layer.mix.packed.bias.detach().unflatten(0, (2, -1))[:, 0].tolist()
    assert values == [12.0, 13.0]
    assert layer.qkv.bias.detach().unflatten(0, (3, -1))[:, 0].tolist() == [0.0, 10.0, 11.0]


def test_untied_has_no_causal_form() -> None:
    with pytest.raises(UnsupportedShape, match="tied_keys_values=False"):
        built(9, LunaOptions(tied_keys_values=False), causal=True)


def test_no_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_tokens is 0"):
        LunaOptions(memory_tokens=0)


def test_softplus_is_in_base_two() -> None:
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)
    base_two = torch.log2(1 + 2**x)
    torch.testing.assert_close(F.softplus(x, beta=0.6931471805599453), base_two)
