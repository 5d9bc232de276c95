"""hilo against ziplab/LITv2."""

from dataclasses import replace

import pytest
import torch
from golden.published_layers import published_output
from golden.published_outputs import Published, published

from attention_impls import load
from attention_impls.variants.hilo import HiloOptions

CASES = published("hilo")
SPEC = load("hilo")


def options(case: Published) -> HiloOptions:
    made = case.arguments
    return HiloOptions(
        window=made["window_size"], low_share=made["alpha"], qkv_bias=made["qkv_bias"]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    case.check(published_output(SPEC, case, options(case), dtype))


@pytest.mark.parametrize("name", [n for n in CASES if not n.endswith("w1")])
def test_another_window_is_told_from_the_published(name: str) -> None:
    case = CASES[name]
    right = options(case)
    wrong = replace(right, window=right.window + 1)
    with pytest.raises(AssertionError, match="not close"):
        case.check(published_output(SPEC, case, wrong, torch.float64))


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"sr.weight": torch.zeros(8, 8)}
    with pytest.raises(KeyError, match=r"sr\.weight"):
        SPEC.adopt_official(weights)
