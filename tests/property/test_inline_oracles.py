"""inline against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.inline import InlineOptions
from bench.stimulus import fill_parameters, normal

SPEC = load("inline")
MAPS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "exp": lambda x: torch.exp(0.2 * x),
}
HEADS, WIDTH = 2, 4
BARE = InlineOptions(local_residual=False)


def qkvx(grid: Grid, extra: int = 0, batch: int = 2) -> list[Tensor]:
    tokens = grid.tokens + extra
    heads = (batch, HEADS, tokens, WIDTH)
    x = normal("x", (batch, tokens, HEADS * WIDTH), dtype=torch.float64)
    return [*(normal(n, heads, dtype=torch.float64) for n in "qkv"), x]


def mix(grid: Grid, options: InlineOptions, extra: int = 0) -> nn.Module:
    layer = SPEC.build(AttentionShape(2, grid, HEADS, WIDTH, extra_tokens=extra), options)
    fill_parameters(layer)
    return layer.mix.double()


def weights(q: Tensor, k: Tensor) -> Tensor:
    """The N x N matrix of the definition, for features q and k."""
    tokens, scale = k.shape[2], k.shape[3] ** -0.5
    centred = q @ k.mT - q @ k.mean(2, keepdim=True).mT
    return scale / tokens * centred + 1 / tokens


@pytest.mark.parametrize("name", MAPS)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), extra=st.integers(0, 2))
def test_the_centred_form_equals_the_weights_and_the_published_form(
    name: str, rows: int, columns: int, extra: int
) -> None:
    grid = Grid(rows, columns)
    q, k, v, x = qkvx(grid, extra)
    got = mix(grid, replace(BARE, feature_map=name), extra)(q, k, v, x, grid)
    q, k = MAPS[name](q), MAPS[name](k)
    tokens, scale = k.shape[2], WIDTH**-0.5
    assert_close(got, weights(q, k) @ v, rtol=1e-10, atol=1e-12)
    mean_k, mean_v = k.mean(2, keepdim=True), v.mean(2, keepdim=True)
    published = q @ (k.mT @ v) * (scale / tokens) + (1 - scale * q @ mean_k.mT) * mean_v
    assert_close(got, published, rtol=1e-10, atol=1e-12)


def test_another_feature_map_is_told_apart() -> None:
    grid = Grid(3, 4)
    q, k, v, x = qkvx(grid)
    for name in MAPS:
        other = "relu" if name != "relu" else "identity"
        got = mix(grid, replace(BARE, feature_map=name))(q, k, v, x, grid)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(got, weights(MAPS[other](q), MAPS[other](k)) @ v)


def test_rows_sum_to_one_with_negative_entries() -> None:
    grid = Grid(3, 4)
    q, k, _, _ = qkvx(grid)
    found = weights(q, k)
    assert_close(found.sum(-1), torch.ones_like(found[..., 0]), rtol=1e-12, atol=0)
    assert found.min() < 0


@given(shift=st.floats(-5, 5))
def test_the_same_vector_on_all_keys_changes_nothing(shift: float) -> None:
    grid = Grid(3, 4)
    q, k, v, x = qkvx(grid)
    bare = mix(grid, BARE)
    assert_close(bare(q, k + shift, v, x, grid), bare(q, k, v, x, grid), rtol=1e-9, atol=1e-10)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(bare(q + shift + 6, k, v, x, grid), bare(q, k, v, x, grid))


def test_equal_keys_give_the_mean_of_the_values() -> None:
    grid = Grid(3, 4)
    q, k, v, x = qkvx(grid)
    got = mix(grid, BARE)(q, k[:, :, :1].expand_as(k), v, x, grid)
    assert_close(got, v.mean(2, keepdim=True).expand_as(v), rtol=1e-12, atol=1e-12)


def test_queries_of_other_length_are_seen() -> None:
    grid = Grid(3, 4)
    q, k, v, x = qkvx(grid)
    bare = mix(grid, BARE)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(bare(2 * q, k, v, x, grid), bare(q, k, v, x, grid))


def residual(module: nn.Module, v: Tensor, x: Tensor, grid: Grid, extra: int) -> Tensor:
    """The local residual, one position of one sample at a time."""
    first, last = module.kernels[0], module.kernels[2]
    out = torch.zeros_like(v)
    for b in range(v.shape[0]):
        mean = x[b].mean(0)
        for h in range(HEADS):
            mine = slice(h * WIDTH, (h + 1) * WIDTH)
            nine = slice(9 * h * WIDTH, 9 * (h + 1) * WIDTH)
            hidden = F.gelu(first.weight[mine] @ mean[mine] + first.bias[mine])
            filters = (last.weight[nine] @ hidden + last.bias[nine]).view(WIDTH, 3, 3)
            image = v[b, h, extra:].view(grid.height, grid.width, WIDTH)
            for row in range(grid.height):
                for column in range(grid.width):
                    at = extra + row * grid.width + column
                    for i, j in ((i, j) for i in range(3) for j in range(3)):
                        y, z = row + i - 1, column + j - 1
                        if 0 <= y < grid.height and 0 <= z < grid.width:
                            out[b, h, at] += filters[:, i, j] * image[y, z]
    return out


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("grid", [Grid(3, 4), Grid(1, 5), Grid(4, 1)], ids=str)
@torch.no_grad()
def test_the_local_residual_equals_a_loop(grid: Grid, extra: int) -> None:
    q, k, v, x = qkvx(grid, extra)
    whole = mix(grid, InlineOptions(), extra)
    found = whole(q, k, v, x, grid) - mix(grid, BARE, extra)(q, k, v, x, grid)
    want = residual(whole, v, x, grid, extra)
    assert_close(found, want, rtol=1e-9, atol=1e-11)
    assert want[:, :, extra:].abs().min() > 0
    if min(grid.height, grid.width) > 1:
        turned = residual(whole, v, x, Grid(grid.width, grid.height), extra)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(found, turned, rtol=1e-9, atol=1e-11)


def test_gradients_are_those_of_the_function() -> None:
    grid = Grid(2, 3)
    inputs = [t[:1].clone().requires_grad_() for t in qkvx(grid, 1)]
    whole = mix(grid, InlineOptions(feature_map="exp"), 1)
    assert torch.autograd.gradcheck(lambda *t: whole(*t, grid), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_holds_on_long_sequences(dtype: torch.dtype) -> None:
    grid = Grid(128, 128)
    layer = SPEC.build(AttentionShape(1, grid, HEADS, WIDTH))
    fill_parameters(layer)
    x = normal("x", (1, grid.tokens, HEADS * WIDTH)).to(dtype)
    got = layer.to(dtype)(x.requires_grad_(), grid)
    want = layer.double()(x.detach().double(), grid)
    assert_close(got.double(), want, rtol=0, atol=0.02 * want.abs().max().item())
    layer.to(dtype)(x, grid).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_options_out_of_range_are_refused() -> None:
    # the type checker of the tests may come first: it knows the allowed words too
    with pytest.raises((ValueError, TypeError), match="feature_map") as refusal:
        replace(InlineOptions(), feature_map="cosine")
    assert "identity" in str(refusal.value)
