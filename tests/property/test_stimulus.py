"""The stimulus is a function of name and index, whatever the name, shape and dtype."""

import math

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attention_impls import AttentionShape, Grid
from bench.stimulus import normal, workload_inputs

NAMES = st.text(max_size=12)
SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])


@given(NAMES, SHAPES, DTYPES)
def test_shape_and_dtype_are_views_of_one_sequence(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    z = normal(name, shape, dtype=dtype)
    assert (tuple(z.shape), z.dtype) == (shape, dtype)
    long = normal(name, (math.prod(shape) + 11,))
    assert torch.equal(z.flatten(), long[: math.prod(shape)].to(dtype))
    assert torch.isfinite(z).all()
    assert (z.abs() < 3.5).all()


@given(NAMES, NAMES)
def test_names_share_no_numbers(one: str, two: str) -> None:
    assume(one != two)
    assert (normal(one, (64,)) == normal(two, (64,))).sum() <= 1


@settings(max_examples=40)
@given(NAMES)
def test_every_name_has_mean_0_and_variance_1(name: str) -> None:
    z = normal(name, (20_000,)).double()
    assert abs(z.mean()) < 6 / 20_000**0.5
    assert abs(z.var() - 1) < 9 / 20_000**0.5


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 3), st.integers(0, 2))
def test_calls_are_fresh(one: int, two: int, batch: int, extra: int) -> None:
    assume(one != two)
    shape = AttentionShape(batch=batch, grid=Grid(2, 9), heads=2, head_dim=5, extra_tokens=extra)
    for a, b in zip(
        workload_inputs(shape, "core", call=one),
        workload_inputs(shape, "core", call=two),
        strict=True,
    ):
        assert a.shape == b.shape
        assert (a == b).sum() <= 2
