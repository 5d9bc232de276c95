"""spatial_reduction against whai362/PVT, both generations."""

import pytest
import torch
from golden.published_layers import published_output
from golden.published_outputs import Published, published

from attention_impls import load
from attention_impls.variants.spatial_reduction import SpatialReductionOptions

CASES = published("spatial_reduction")
SPEC = load("spatial_reduction")


def options(case: Published) -> SpatialReductionOptions:
    made = case.arguments
    return SpatialReductionOptions(reduction=made["sr_ratio"], qkv_bias=made["qkv_bias"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    case.check(published_output(SPEC, case, options(case), dtype))


def test_keys_from_another_place_are_told_from_the_published() -> None:
    case = CASES["pvt_d64_h2_r4_ragged"]
    right = published_output(SPEC, case, options(case), torch.float64)
    case.check(right)
    with pytest.raises(AssertionError, match="not close"):
        case.check(right.flip(1))
    with pytest.raises(AssertionError, match="not close"):
        case.check(right * (1 + 1e-6))


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"act.weight": torch.zeros(8, 8)}
    with pytest.raises(KeyError, match=r"act\.weight"):
        SPEC.adopt_official(weights)
