"""bilevel_routing against rayleizhu/BiFormer."""

from dataclasses import replace

import pytest
import torch
from golden.published_layers import published_output
from golden.published_outputs import Published, published

from attention_impls import load
from attention_impls.variants.bilevel_routing import BilevelRoutingOptions

CASES = published("bilevel_routing")
SPEC = load("bilevel_routing")


def options(case: Published) -> BilevelRoutingOptions:
    made = case.arguments
    return BilevelRoutingOptions(
        regions=made["n_win"],
        attended=made["topk"],
        local_residual=made["side_dwconv"] > 0,
        local_size=made["side_dwconv"] or 5,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    case.check(published_output(SPEC, case, options(case), dtype))


@pytest.mark.parametrize("name", CASES)
def test_one_region_more_is_told_from_the_published(name: str) -> None:
    case = CASES[name]
    right = options(case)
    wrong = replace(right, attended=right.attended + 1)
    with pytest.raises(AssertionError, match="not close"):
        case.check(published_output(SPEC, case, wrong, torch.float64))


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"router.emb.weight": torch.zeros(8, 8)}
    with pytest.raises(KeyError, match=r"router\.emb\.weight"):
        SPEC.adopt_official(weights)
