"""performer against lucidrains/performer-pytorch."""

from dataclasses import replace

import pytest
import torch
from golden.official_fill import input_array
from golden.published_outputs import Published, published

from attention_impls import AttentionShape, Grid, load

CASES = published("performer")
GRID = Grid(14, 14)
SHAPE = AttentionShape(2, GRID, 2, 32)


def options(case: Published) -> object:
    made = case.arguments
    kind = "relu" if made.get("generalized_attention") else "softmax"
    return replace(
        load("performer").options,
        features=made.get("nb_features"),
        feature_map="none" if made.get("no_projection") else kind,
        row_norms="constant" if made.get("ortho_scaling") else "random",
    )


def output(case: Published, dtype: torch.dtype, **changed: object) -> torch.Tensor:
    spec = load("performer")
    layer = spec.build(SHAPE, replace(options(case), **changed))
    given = "projection" in case.arguments
    if case.class_ == "SelfAttention":
        matrix = torch.from_numpy(input_array((110, 32), 2000))
        weights = case.weights() | {"fast_attention.projection_matrix": matrix}
        layer.load_state_dict(spec.adopt_official(weights))
    elif given:
        drawn = layer.mix.projection
        drawn.copy_(torch.from_numpy(input_array(tuple(drawn.shape), 2000)))
    layer.to(dtype)
    if case.class_ == "SelfAttention":
        return layer(*case.tensors(dtype), GRID)
    return layer.mix(*case.tensors(dtype), torch.zeros(2, 196, 64, dtype=dtype), GRID)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str) -> None:
    """Where W is drawn, with the published order of draws, too."""
    CASES[name].check(output(CASES[name], torch.float32))


@pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if "projection" in c.arguments or "noproj" in n]
)
def test_equals_the_published_code_in_float64(name: str) -> None:
    """Not where W is drawn: a decomposition fixes it to float32 rounding of the machine."""
    CASES[name].check(output(CASES[name], torch.float64))


def test_the_map_without_features_loads_a_published_layer() -> None:
    """The published layer keeps the matrix that it does not use."""
    case = CASES["performer_layer"]
    spec = load("performer")
    layer = spec.build(SHAPE, replace(spec.options, feature_map="none"))
    matrix = torch.from_numpy(input_array((110, 32), 2000))
    weights = case.weights() | {"fast_attention.projection_matrix": matrix}
    layer.load_state_dict(spec.adopt_official(weights))
    torch.testing.assert_close(layer.out.weight, case.weights()["to_out.weight"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("performer_given_matrix_d32_f64", {"epsilon": 1e-5}),
        ("performer_relu_d32", {"epsilon": 1e-4}),
        ("performer_fast_softmax_d32_f64", {"seed": 1}),
        ("performer_fast_softmax_d32_f64", {"orthogonal": False}),
        ("performer_layer", {"feature_map": "relu"}),
    ],
)
def test_another_setting_is_told_from_the_published(name: str, changed: dict[str, object]) -> None:
    with pytest.raises(AssertionError, match="not close"):
        CASES[name].check(output(CASES[name], torch.float32, **changed))
