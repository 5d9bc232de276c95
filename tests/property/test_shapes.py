"""Sizes: what can be built adds up, what makes no sense cannot be built."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_impls import AttentionShape, Grid

SIZES = st.integers(1, 4096)
GRIDS = st.builds(Grid, SIZES, SIZES)
SHAPES = st.builds(
    AttentionShape,
    batch=SIZES,
    grid=GRIDS,
    heads=SIZES,
    head_dim=SIZES,
    extra_tokens=st.integers(0, 9),
    causal=st.booleans(),
)
NO_SIZE = st.one_of(
    st.integers(max_value=0), st.floats(), st.booleans(), st.text(max_size=3), st.none()
)


@given(SHAPES, GRIDS, SIZES)
def test_sizes_add_up(shape: AttentionShape, grid: Grid, batch: int) -> None:
    assert shape.tokens == shape.grid.height * shape.grid.width + shape.extra_tokens
    assert shape.channels == shape.heads * shape.head_dim
    other = shape.with_grid(grid)
    assert other.grid == grid
    assert other.with_grid(shape.grid) == shape
    assert shape.with_batch(batch).tokens == shape.tokens
    assert hash(shape.with_batch(shape.batch)) == hash(shape)


@given(GRIDS)
def test_a_grid_reads_as_rows_by_columns(grid: Grid) -> None:
    height, width = map(int, str(grid).split("x"))
    assert Grid(height, width) == grid
    assert grid.tokens == height * width


@given(NO_SIZE, st.sampled_from(["height", "width"]))
def test_grids_refuse_what_is_no_size(value: object, name: str) -> None:
    sizes = {"height": 2, "width": 3, name: value}
    with pytest.raises(Exception, match=name):
        Grid(**sizes)


@given(NO_SIZE, st.sampled_from(["batch", "heads", "head_dim"]))
def test_shapes_refuse_what_is_no_size(value: object, name: str) -> None:
    sizes = {"batch": 1, "heads": 2, "head_dim": 3, name: value}
    with pytest.raises(Exception, match=name):
        AttentionShape(grid=Grid(1, 1), **sizes)


@given(st.integers(max_value=-1) | st.floats() | st.booleans() | st.none())
def test_shapes_refuse_what_is_no_count(value: object) -> None:
    with pytest.raises(Exception, match="extra_tokens"):
        AttentionShape(batch=1, grid=Grid(1, 1), heads=1, head_dim=1, extra_tokens=value)
