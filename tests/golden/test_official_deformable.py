"""deformable against LeapLabTHU/DAT."""

from dataclasses import replace

import pytest
import torch
from golden.published_layers import published_output
from golden.published_outputs import Published, published

from attention_impls import Grid, load
from attention_impls.variants.deformable import DeformableOptions, point_counts

CASES = published("deformable")
SPEC = load("deformable")


def options(case: Published) -> DeformableOptions:
    made = case.arguments
    reach = made["offset_range_factor"]
    return DeformableOptions(
        stride=made["stride"],
        offset_size=made["ksize"],
        group_heads=made["num_heads"] // made["groups"],
        offset_range=None if reach < 0 else reach,
        position_bias=made["use_pe"],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    case.check(published_output(SPEC, case, options(case), dtype))


@pytest.mark.parametrize("name", CASES)
def test_another_bound_on_offsets_is_told_from_the_published(name: str) -> None:
    case = CASES[name]
    right = options(case)
    wrong = replace(right, offset_range=3 if right.offset_range is None else None)
    with pytest.raises(AssertionError, match="not close"):
        case.check(published_output(SPEC, case, wrong, torch.float64))


def test_bounded_offsets_have_distances_that_float32_holds() -> None:
    """The published code keeps 1 / (M - 1), for M points on a side, in float32 always."""
    for case in CASES.values():
        if options(case).offset_range is not None:
            counts = point_counts(Grid(*case.arguments["grid"]), options(case))
            assert all((count - 1).bit_count() == 1 for count in counts)


def test_both_kinds_of_offsets_occur() -> None:
    assert {options(case).offset_range for case in CASES.values()} == {None, 2, 5}


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"conv_offset.4.weight": torch.zeros(8, 8)}
    with pytest.raises(KeyError, match=r"conv_offset\.4\.weight"):
        SPEC.adopt_official(weights)
