"""spatial_reduction_linear against the linear form in whai362/PVT."""

from dataclasses import replace

import pytest
import torch
from golden.published_layers import published_output
from golden.published_outputs import Published, published

from attention_impls import load
from attention_impls.variants.spatial_reduction_linear import SpatialReductionLinearOptions

CASES = published("spatial_reduction_linear")
SPEC = load("spatial_reduction_linear")


def options(case: Published) -> SpatialReductionLinearOptions:
    made = case.arguments
    return SpatialReductionLinearOptions(qkv_bias=made["qkv_bias"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    case.check(published_output(SPEC, case, options(case), dtype))


@pytest.mark.parametrize("name", CASES)
def test_another_pooling_is_told_from_the_published(name: str) -> None:
    case = CASES[name]
    wrong = replace(options(case), pooled_side=6)
    with pytest.raises(AssertionError, match="not close"):
        case.check(published_output(SPEC, case, wrong, torch.float64))


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"pool.weight": torch.zeros(8, 8)}
    with pytest.raises(KeyError, match=r"pool\.weight"):
        SPEC.adopt_official(weights)
