"""soft and soft_norm against the authors' code (fudan-zvg/SOFT)."""

from dataclasses import replace

import pytest
import torch
from golden.official_fill import input_array
from golden.published_outputs import Published, published

from attention_impls import AttentionShape, Grid, load
from attention_impls.parts.gaussian import gaussian_affinities
from attention_impls.parts.newton import newton_inverse, ridged
from attention_impls.variants.soft_norm import initial_scale

CASES = published("soft")
FUNCTIONS = published("soft_functions")
DTYPES = (torch.float32, torch.float64)


def output(case: Published, dtype: torch.dtype, **changed: object) -> torch.Tensor:
    made = case.arguments
    spec = load("soft_norm" if case.id.startswith("softnorm") else "soft")
    options = replace(
        spec.options,
        landmark_rule="stride",
        stride=made["ratio"],
        local_size=made["conv_size"],
        newton_steps=made["max_iter"],
    )
    if spec.name == "soft_norm":
        options = replace(options, initial_scale="global")
    options = replace(options, **changed)
    grid = Grid(made["height"], made["width"])
    heads = made["num_heads"]
    layer = spec.build(AttentionShape(case.inputs[0][0], grid, heads, 64 // heads), options)
    layer.load_state_dict(spec.adopt_official(case.weights()))
    return layer.to(dtype)(*case.tensors(dtype), grid)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_authors_code(name: str, dtype: torch.dtype) -> None:
    CASES[name].check(output(CASES[name], dtype))


@pytest.mark.parametrize("name", ["soft_d64_h2_r2_c3", "softnorm_d64_h2_r2_c3"])
def test_fixed_landmarks_agree_with_the_stride_where_it_divides_the_grid(name: str) -> None:
    CASES[name].check(output(CASES[name], torch.float64, landmark_rule="fixed"))


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("softnorm") and "@B" not in n])
def test_own_scale_of_each_matrix_is_the_authors_where_the_inverse_converges(name: str) -> None:
    CASES[name].check(output(CASES[name], torch.float32, initial_scale="per_matrix"))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("soft_d64_h2_r8_c9@B", {"ridge": 0.0}),
        ("soft_d64_h2_r8_c9@B", {"newton_steps": 8}),
        ("soft_rest_15x13_r2_c5", {"landmark_sampling": "average_pool"}),
        ("softnorm_batch_15x13_r2_c0@B", {"initial_scale": "per_matrix"}),
        ("softnorm_batch_15x13_r2_c0@B", {"newton_steps": 19}),
    ],
)
def test_another_setting_is_told_from_the_authors(name: str, changed: dict[str, object]) -> None:
    sampling = changed.get("landmark_sampling", "conv")
    if sampling != "conv":
        case = CASES[name]
        weights = {n: w for n, w in case.weights().items() if "landmark" not in n}
        spec = load("soft")
        adopted = spec.adopt_official({n: w for n, w in weights.items() if "Qnorm" not in n})
        assert not any("landmarks" in n for n in adopted)
        options = replace(
            spec.options, landmark_rule="stride", local_size=5, landmark_sampling=sampling
        )
        layer = spec.build(AttentionShape(2, Grid(15, 13), 2, 32), options)
        layer.load_state_dict(adopted)
        got = layer.double()(*case.tensors(torch.float64), Grid(15, 13))
    else:
        got = output(CASES[name], torch.float64, **changed)
    with pytest.raises(AssertionError, match="not close"):
        CASES[name].check(got)


def affinities() -> torch.Tensor:
    points = 0.25 * torch.from_numpy(input_array((2, 3, 24, 16), 1000)).double().flatten(0, 1)
    return gaussian_affinities(points, points, 1.0)


def test_affinities_equal_the_authors_function() -> None:
    FUNCTIONS["gaussian"].check(affinities().unflatten(0, (2, 3)))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n.startswith("newton")])
def test_newton_inverse_equals_the_authors_function(name: str) -> None:
    matrix = affinities()
    alpha = 1.8 / matrix.sum(-1).amax(-1).square()
    matrix = ridged(matrix, 0.01)
    start = alpha[:, None, None] * matrix
    got = newton_inverse(matrix, start, FUNCTIONS[name].arguments["steps"])
    FUNCTIONS[name].check(got.unflatten(0, (2, 3)))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n.startswith("norm_newton")])
def test_halved_newton_inverse_equals_the_authors_function(name: str) -> None:
    matrix = affinities()
    steps = FUNCTIONS[name].arguments["steps"]
    start = initial_scale(matrix, together=True) * matrix
    FUNCTIONS[name].check(newton_inverse(matrix, start, steps).unflatten(0, (2, 3)))
    whole = 2 / matrix.sum(-1).max() ** 2 * matrix
    with pytest.raises(AssertionError, match="not close"):
        FUNCTIONS[name].check(newton_inverse(matrix, whole, steps).unflatten(0, (2, 3)))
