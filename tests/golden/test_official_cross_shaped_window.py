"""cross_shaped_window against the attention of microsoft/CSWin-Transformer's block."""

from dataclasses import replace

import pytest
import torch
from golden.published_layers import published_output
from golden.published_outputs import Published, published

from attention_impls import load
from attention_impls.variants.cross_shaped_window import CrossShapedWindowOptions

CASES = published("cross_shaped_window")
SPEC = load("cross_shaped_window")


def options(case: Published) -> CrossShapedWindowOptions:
    made = case.arguments
    return CrossShapedWindowOptions(
        stripe=made["split_size"], whole_grid=made["last_stage"], qkv_bias=made["qkv_bias"]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    case.check(published_output(SPEC, case, options(case), dtype))


@pytest.mark.parametrize("name", [n for n in CASES if "map7" not in n and "last" not in n])
def test_other_options_are_told_from_the_published(name: str) -> None:
    case = CASES[name]
    right = options(case)
    wrong = (replace(right, stripe=3), replace(right, whole_grid=True))
    for other in wrong:
        with pytest.raises(AssertionError, match="not close"):
            case.check(published_output(SPEC, case, other, torch.float64))


def test_a_stripe_as_wide_as_the_grid_is_the_last_stage() -> None:
    case = CASES["cswin_d64_h4_map7"]
    assert not case.arguments["last_stage"]
    chosen = replace(options(case), whole_grid=True)
    case.check(published_output(SPEC, case, chosen, torch.float64))


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"attns.2.get_v.weight": torch.zeros(8, 8)}
    with pytest.raises(KeyError, match=r"attns\.2\.get_v\.weight"):
        SPEC.adopt_official(weights)
