"""nystromformer against the authors' code (mlpen/Nystromformer) and lucidrains' package."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from golden.published_outputs import Published, published

from attention_impls import AttentionShape, Grid, load

CASES = published("nystromformer")


def chosen(case: Published) -> dict[str, Any]:
    made = case.arguments
    original = made.get("init_option", "original") == "original"
    return {
        "landmarks": made["num_landmarks"],
        "conv_size": made.get("conv_kernel_size")
        or made.get("kernel_size")
        or made.get("residual_conv_kernel", 0),
        "initialisation": "global" if original else "per_matrix",
        "remainder": "pad_left" if "lucid" in case.id else "uneven",
        "qkv_bias": False,
    }


def output(case: Published, dtype: torch.dtype, **changed: object) -> torch.Tensor:
    spec, first = load("nystromformer"), case.inputs[0]
    at_core = len(first) == 4
    heads = first[1] if at_core else case.arguments.get("heads", 1)
    grid = Grid(1, first[-2])
    shape = AttentionShape(2, grid, heads, first[-1] if at_core else first[-1] // heads)
    layer = spec.build(shape, replace(spec.options, **(chosen(case) | changed)))
    tensors = case.tensors(dtype)
    if at_core:
        if "conv.weight" in case.parameters:
            layer.mix.load_state_dict({"conv": case.weights()["conv.weight"]})
        layer.to(dtype)
        return layer.mix(*tensors, torch.zeros(2, grid.tokens, shape.channels, dtype=dtype), grid)
    layer.load_state_dict(spec.adopt_official(case.weights()))
    layer.to(dtype)
    out = layer(*tensors, grid)
    if "T2T" in case.id:  # that code adds the values to what the attention returns
        out = out + layer.project(*tensors)[2].squeeze(1)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    CASES[name].check(output(CASES[name], dtype))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("nystrom_code_h2_m49", {"initialisation": "per_matrix"}),
        ("nystrom_T2T_exact_rest", {"initialisation": "global"}),
        ("nystrom_lucid_rest", {"remainder": "uneven"}),
        ("nystrom_lucid_few_tokens", {"remainder": "uneven"}),
        ("nystrom_code_h2_m49", {"iterations": 5}),
        ("nystrom_code_as_many_landmarks", {"remainder": "pad_left"}),
    ],
)
def test_another_setting_is_told_from_the_published(name: str, changed: dict[str, object]) -> None:
    with pytest.raises(AssertionError, match="not close"):
        CASES[name].check(output(CASES[name], torch.float32, **changed))
