"""window_shifted against microsoft/Swin-Transformer, with its partition and cyclic shift."""

from dataclasses import replace

import pytest
import torch
from golden.published_layers import published_output
from golden.published_outputs import Published, published

from attention_impls import load
from attention_impls.variants.window_shifted import WindowShiftedOptions

CASES = published("window_shifted")
SPEC = load("window_shifted")


def options(case: Published) -> WindowShiftedOptions:
    made = case.arguments
    return WindowShiftedOptions(window=made["window_size"], shifted=made["shift_size"] > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    case.check(published_output(SPEC, case, options(case), dtype))


@pytest.mark.parametrize("name", [n for n in CASES if "map7" not in n])
def test_the_other_shift_is_told_from_the_published(name: str) -> None:
    case = CASES[name]
    right = options(case)
    wrong = replace(right, shifted=not right.shifted)
    with pytest.raises(AssertionError, match="not close"):
        case.check(published_output(SPEC, case, wrong, torch.float64))


def test_one_window_over_the_whole_map_has_no_shift() -> None:
    case = CASES["swin_d64_h2_w7_map7"]
    assert case.arguments["shift_size"] > 0
    for shifted in (False, True):
        chosen = replace(options(case), shifted=shifted)
        case.check(published_output(SPEC, case, chosen, torch.float64))


def test_the_published_tables_that_follow_from_the_window_are_not_needed() -> None:
    weights = CASES["swin_d96_h3_w7"].weights()
    tables = {"relative_position_index": torch.zeros(49, 49), "attn_mask": torch.zeros(4, 49, 49)}
    assert set(SPEC.adopt_official(weights | tables)) == set(SPEC.adopt_official(weights))


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"q_norm.weight": torch.zeros(8, 8)}
    with pytest.raises(KeyError, match=r"q_norm\.weight"):
        SPEC.adopt_official(weights)
