"""linformer against lucidrains/linformer."""

from dataclasses import replace

import pytest
import torch
from golden.published_outputs import Published, published
from torch import nn

from attention_impls import AttentionShape, Grid, load

CASES = published("linformer")


def layer(case: Published) -> nn.Module:
    made, spec = case.arguments, load("linformer")
    sharing = "keys_values" if made.get("share_kv") else "none"
    options = replace(spec.options, projected_tokens=made["k"], sharing=sharing, qkv_bias=False)
    shape = AttentionShape(2, Grid(1, made["seq_len"]), made["heads"], 64 // made["heads"])
    found = spec.build(shape, options)
    found.load_state_dict(spec.adopt_official(case.weights()))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    case.check(layer(case).to(dtype)(*case.tensors(dtype), Grid(1, case.arguments["seq_len"])))


@pytest.mark.parametrize("name", CASES)
def test_other_maps_are_told_from_the_published(name: str) -> None:
    case = CASES[name]
    other = layer(case).double()
    with torch.no_grad():
        other.mix.keys.mul_(1.001)
    got = other(*case.tensors(torch.float64), Grid(1, case.arguments["seq_len"]))
    with pytest.raises(AssertionError, match="not close"):
        case.check(got)


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = CASES["linformer_d64_h2_k32"].weights() | {"to_gate.weight": torch.zeros(64, 64)}
    with pytest.raises(KeyError, match="to_gate"):
        load("linformer").adopt_official(weights)
