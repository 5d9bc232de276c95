"""eva against what its mathematics must give."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.eva import chunk_of, tiled, untiled, window_of
from bench.stimulus import fill_parameters, normal

SPEC = load("eva")
HEADS, WIDTH = 2, 4
SMALL = replace(SPEC.options, window_side=3, landmarks=6)


def built(grid: Grid, options: Any) -> Any:
    layer = SPEC.build(AttentionShape(2, grid, HEADS, WIDTH), options).double()
    fill_parameters(layer)
    return layer.eval()


def inputs(grid: Grid) -> list[Tensor]:
    qkv = [normal(n, (2, HEADS, grid.tokens, WIDTH), dtype=torch.float64) for n in "qkv"]
    return [*qkv, torch.zeros(2, grid.tokens, HEADS * WIDTH, dtype=torch.float64)]


def members(grid: Grid, tile: Grid) -> list[list[int]]:
    """Tokens of each tile."""
    found: dict[tuple[int, int], list[int]] = {}
    for token in range(grid.tokens):
        row, column = divmod(token, grid.width)
        found.setdefault((row // tile.height, column // tile.width), []).append(token)
    return list(found.values())


def one_head(mix: Any, qkv: list[Tensor], head: int, grid: Grid, options: Any) -> Tensor:
    """The formulas for one head of one sequence, token by token."""
    q, k, v = qkv
    scale, window = WIDTH**-0.5, mix.window
    keys: list[Tensor] = []
    betas: list[Tensor] = []
    for chunk in members(grid, chunk_of(grid, options)):
        key = mix.keys(k[chunk].mean(0))
        centre = torch.zeros_like(key)
        if options.proposal != "zero":
            centre = (mix.queries(q[chunk].mean(0)) + key) / 2
        logits = k[chunk] @ centre * scale - k[chunk].square().sum(-1) * scale / 2
        keys.append(key)
        betas.append(logits.softmax(0) @ v[chunk])
    out = torch.zeros_like(v)
    for tokens in members(grid, window):
        for i in tokens:
            logits = [q[i] @ k[j] * scale for j in tokens]
            for at, j in enumerate(tokens if options.position_bias else ()):
                down = i // grid.width - j // grid.width + window.height - 1
                right = i % grid.width - j % grid.width + window.width - 1
                logits[at] = logits[at] + mix.bias.table[down * window.width + right, head]
            logits += [q[i] @ key * scale for key in keys]
            out[i] = torch.stack(logits).softmax(0) @ torch.stack([*v[tokens], *betas])
    return out


@pytest.mark.parametrize("grid", [Grid(6, 6), Grid(5, 7), Grid(2, 11), Grid(1, 13), Grid(9, 1)])
@pytest.mark.parametrize(
    "changed", [{}, {"position_bias": False}, {"proposal": "zero"}, {"proposal": "linear"}], ids=str
)
@torch.no_grad()
def test_equals_the_formulas_token_by_token(grid: Grid, changed: dict[str, Any]) -> None:
    options = replace(SMALL, **changed)
    layer, (*qkv, x) = built(grid, options), inputs(grid)
    got = layer.mix(*qkv, x, grid)[1, 1]
    assert_close(got, one_head(layer.mix, [t[1, 1] for t in qkv], 1, grid, options))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, one_head(layer.mix, [t[1, 0] for t in qkv], 1, grid, options))


@pytest.mark.parametrize(
    ("grid", "window", "chunk"),
    [
        (Grid(14, 14), Grid(7, 7), Grid(2, 2)),
        (Grid(56, 56), Grid(7, 7), Grid(8, 8)),
        (Grid(10, 8), Grid(7, 7), Grid(1, 1)),
        (Grid(1, 490), Grid(1, 49), Grid(1, 10)),
        (Grid(3, 40), Grid(3, 16), Grid(1, 1)),
        (Grid(300, 5), Grid(9, 5), Grid(5, 5)),
        (Grid(1, 3), Grid(1, 3), Grid(1, 1)),
    ],
    ids=str,
)
def test_windows_and_chunks_fit_the_grid(grid: Grid, window: Grid, chunk: Grid) -> None:
    assert window_of(grid, SPEC.options) == window
    assert chunk_of(grid, SPEC.options) == chunk


def test_tiles_are_undone() -> None:
    grid, tile = Grid(5, 7), Grid(2, 3)
    v = inputs(grid)[2]
    parts = tiled(v, grid, tile)
    assert parts.shape == (2, HEADS, 9, 6, WIDTH)
    assert torch.equal(untiled(parts, grid, tile), v)
    assert not torch.equal(untiled(parts.flip(2), grid, tile), v)


def test_the_published_table_has_97_entries() -> None:
    table = built(Grid(14, 14), SPEC.options).mix.bias.table
    assert table.shape == (97, HEADS)


@torch.no_grad()
def test_training_samples_around_the_centres() -> None:
    grid = Grid(6, 6)
    layer, (*qkv, x) = built(grid, SMALL), inputs(grid)
    want = layer.mix(*qkv, x, grid)
    layer.train()
    torch.manual_seed(0)
    one, two = (layer.mix(*qkv, x, grid) for _ in range(2))
    assert not torch.equal(one, two)
    assert not torch.equal(one, want)


@pytest.mark.parametrize("wrong", [{"landmarks": 0}, {"window_side": 0}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        replace(SPEC.options, **wrong)


def test_a_known_constant_of_published_weights_is_left_out_and_others_are_not() -> None:
    square = torch.zeros(8, 8)
    official = {"qkv.weight": square, "relative_position_index": torch.zeros(49, 49)}
    assert set(SPEC.adopt_official(official)) == {"qkv.weight"}
    with pytest.raises(KeyError, match=r"rel_pos_bias\.weight"):
        SPEC.adopt_official({**official, "rel_pos_bias.weight": square})
