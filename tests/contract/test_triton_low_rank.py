"""Triton backends of soft, soft_norm, agent and performer, under Triton's interpreter."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract.backend_parity import DTYPES, differences, execution, layer, results
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from attention_impls import AttentionShape, Grid, load
from attention_impls.registry import load_backend
from attention_impls.spec import Backend, DType
from bench.stimulus import fill_parameters, normal

ROOT = Path(__file__).parents[2]
PARTS = "attention_impls.triton_parts"
VARIANTS = ("soft", "soft_norm", "agent", "performer")
SMALL = AttentionShape(1, Grid(4, 5), 2, 16)
TAIL = AttentionShape(1, Grid(7, 10), 1, 40)
"""Two programs a head, the second with a tail; neither side fits the landmarks."""
SHAPE_OF: dict[DType, AttentionShape] = {
    "float32": TAIL,
    "bfloat16": AttentionShape(2, Grid(1, 9), 2, 16),
    "float16": AttentionShape(1, Grid(3, 5), 1, 128),
}

interpreter = pytest.mark.usefixtures("triton_interpreter")


def triton(variant: str) -> Backend:
    return load_backend(variant, "triton")


@interpreter
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_and_every_gradient_equal_the_reference(variant: str, dtype: DType) -> None:
    assert differences(triton(variant), SHAPE_OF[dtype], dtype) == []


@interpreter
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_and_every_gradient_of_a_single_token(variant: str) -> None:
    assert differences(triton(variant), replace(SMALL, grid=Grid(1, 1)), "float32") == []


OPTIONS = [
    ("soft", {"inverse_gradient": "unrolled", "local_size": 0}, 0),
    ("soft_norm", {"inverse_gradient": "implicit", "ridge": 0.1, "local_size": 5}, 0),
    ("soft_norm", {"newton_steps": 2, "ridge": 0.1}, 0),
    ("agent", {"landmarks": 9, "position_bias": False}, 0),
    ("agent", {"landmarks": 4, "local_residual": False}, 0),
    ("agent", {"landmarks": 4}, 2),
    ("performer", {"features": 70, "epsilon": 0.05}, 1),
]


@interpreter
@pytest.mark.parametrize(("variant", "options", "extra"), OPTIONS, ids=str)
def test_other_options_equal_the_reference(
    variant: str, options: dict[str, Any], extra: int
) -> None:
    shape = replace(SMALL, extra_tokens=extra)
    reference = load(variant).build(shape, replace(load(variant).options, **options)).double()
    fill_parameters(reference)
    want = results_of(reference, shape)
    reference.float()
    for name, value in results_of(triton(variant).adopt(reference), shape).items():
        theirs = want[name.replace("mix.reference.", "mix.")]
        bound = 1e-4 * theirs.abs().max().item() + 1e-5
        torch.testing.assert_close(value, theirs, rtol=0, atol=bound, msg=name)


def results_of(module: nn.Module, shape: AttentionShape) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters())
    dtype = next(iter(parameters.values())).dtype
    x = normal("x", (shape.batch, shape.tokens, shape.channels), dtype=torch.float64).to(dtype)
    found = results(module, parameters, x, shape.grid)
    return {name: value.double() for name, value in found.items()}


# What must be refused -----------------------------------------------------------------------------


def five_percent_off(kernel_part: Any) -> Any:
    """Return a stand-in for a piece of a kernel that is 5 % off."""

    def wrong(*arguments: Any) -> Any:
        found = kernel_part(*arguments)
        return tuple(f * 1.05 for f in found) if isinstance(found, tuple) else found * 1.05

    return wrong


FAULTS = [
    ("soft", "gaussian_kernels", "exponents"),
    ("soft", "gaussian_kernels", "local_sum"),
    ("soft", "gaussian_kernels", "local_backward"),
    ("soft", "newton_kernels", "summed_rows"),
    ("soft_norm", "newton_kernels", "affinities_between"),
    ("agent", "agent_scores", "bias_tile"),
    ("agent", "agent_forward", "read_weights"),
    ("agent", "agent_backward", "gather_scores"),
    ("agent", "agent_backward", "local_backward"),
    ("performer", "performer_forward", "projected"),
    ("performer", "performer_forward", "half_squares"),
    ("performer", "performer_backward", "projected"),
    ("performer", "performer_backward", "load_pulls"),
]


@interpreter
@pytest.mark.parametrize(("variant", "module", "part"), FAULTS)
def test_a_kernel_with_a_fault_is_refused(
    variant: str, module: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = importlib.import_module(f"{PARTS}.{module}")
    monkeypatch.setattr(kernels, part, five_percent_off(getattr(kernels, part)))
    assert differences(triton(variant), SMALL, "float32")


MODULES = {"soft": "gaussian_low_rank", "agent": "agent", "performer": "performer"}


@interpreter
@pytest.mark.parametrize("variant", MODULES)
def test_a_kernel_that_forgets_the_last_tokens_is_refused(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = importlib.import_module(f"{PARTS}.{MODULES[variant]}")
    honest = kernels.blocks_of
    monkeypatch.setattr(kernels, "blocks_of", lambda x: replace(honest(x), tokens=x.shape[2] - 1))
    assert differences(triton(variant), SMALL, "float32")


@interpreter
def test_too_few_newton_steps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("attention_impls.backends.soft_triton")
    honest = module._rule
    monkeypatch.setattr(module, "_rule", lambda options: replace(honest(options), steps=2))
    assert differences(triton("soft"), SMALL, "float32")


# What kernels promise -----------------------------------------------------------------------------


@interpreter
@pytest.mark.parametrize("variant", MODULES)
def test_two_runs_give_the_same_bits(variant: str) -> None:
    reference = layer(SMALL, "float32", variant=variant)
    x = normal("x", (SMALL.batch, SMALL.tokens, SMALL.channels))
    runs = [
        results(triton(variant).adopt(reference), dict(reference.named_parameters()), x, SMALL.grid)
        for _ in range(2)
    ]
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name


@interpreter
@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_is_predicted_on_fake_tensors(variant: str) -> None:
    with FakeTensorMode():
        adopted = triton(variant).adopt(load(variant).build(SMALL))
        x = torch.empty(SMALL.batch, SMALL.tokens, SMALL.channels, requires_grad=True)
        out = adopted(x, SMALL.grid)
        out.sum().backward()
    assert out.shape == x.shape == x.grad.shape


@interpreter
@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_are_merged_without_a_copy(variant: str) -> None:
    x = normal("x", (SMALL.batch, SMALL.tokens, SMALL.channels))
    adopted = triton(variant).adopt(load(variant).build(SMALL))
    with torch.no_grad():
        out = adopted.mix(*adopted.project(x), x, SMALL.grid)
    assert out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()


# Reasons ------------------------------------------------------------------------------------------


REASONS = [
    ("soft", {"landmark_rule": "stride", "stride": 1}, Grid(14, 14), "at most 64 landmarks"),
    ("soft_norm", {"initial_scale": "global"}, Grid(4, 4), "couples the matrices"),
    ("agent", {"landmarks": 100}, Grid(4, 4), "at most 64 agents, got landmarks=100"),
    ("agent", {"reduction": 2}, Grid(4, 4), "reduction=2"),
    ("performer", {"feature_map": "relu"}, Grid(4, 4), "feature_map 'softmax', got 'relu'"),
]


@pytest.mark.parametrize(("variant", "options", "grid", "reason"), REASONS, ids=str)
def test_what_cannot_run_says_why(
    variant: str,
    options: dict[str, Any],
    grid: Grid,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    asked = execution(replace(SMALL, grid=grid), variant=variant)
    assert triton(variant).unsupported(asked) == ()
    asked = replace(asked, options=replace(load(variant).options, **options))
    (given,) = triton(variant).unsupported(asked)
    assert re.search(reason, given), given


def test_a_causal_performer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    asked = execution(replace(SMALL, causal=True), variant="performer")
    assert any("no causal form" in given for given in triton("performer").unsupported(asked))


def test_agents_of_wide_float32_heads_are_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients need more shared memory than a GPU of 227 KiB has; the output does not."""
    device = SimpleNamespace(shared_memory_per_block_optin=227 * 1024)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: device)
    limits = importlib.import_module(f"{PARTS}.on_chip").shared_memory_limits
    trained = execution(replace(SMALL, head_dim=128), "float32", "cuda", "agent")
    (given,) = limits(trained)
    assert "need 299008 bytes of shared memory" in given
    for change in (
        {"backward": False}, {"variant": "soft"}, {"shape": SMALL}, {"dtype": "float16"},
    ):  # fmt: skip
        assert limits(replace(trained, **change)) == (), change


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_variant_is_not_adopted(variant: str) -> None:
    other = "soft_norm" if variant == "soft" else "soft"
    for layer_of_another in (load(other).build(SMALL), nn.Linear(2, 2)):
        with pytest.raises(TypeError, match=f"variant {variant}"):
            triton(variant).adopt(layer_of_another)


# On a GPU -----------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.usefixtures("triton_on_gpu")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_gpu_output_and_gradients_equal_the_reference(variant: str, dtype: DType) -> None:
    others = [
        AttentionShape(2, Grid(1, 257), 3, 20),
        AttentionShape(2, Grid(32, 32), 3, 64),
        AttentionShape(1, Grid(37, 41), 1, 64),
        AttentionShape(1, Grid(16, 16), 1, 128),
    ]
    for shape in (*SHAPE_OF.values(), *others):
        asked = execution(shape, dtype, "cuda", variant)
        if not triton(variant).unsupported(asked):
            assert differences(triton(variant), shape, dtype, "cuda") == []


# Compiled -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("dtype", "head_dim"), [("bfloat16", 64), ("float32", 64), ("float32", 128)]
)
def test_kernels_fit_on_chip_as_declared(variant: str, dtype: DType, head_dim: int) -> None:
    """Triton's compiler needs no GPU: shared memory of every kernel, as `unsupported` has it."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "contract.triton_compiled", variant, dtype, str(head_dim)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    limits = importlib.import_module(f"{PARTS}.on_chip")
    allowed = limits.shared_bytes(
        execution(replace(SMALL, head_dim=head_dim), dtype, "cuda", variant)
    )
    assert len(found) >= 4
    assert {name: s for name, s in found.items() if s["shared_bytes"] > allowed} == {}
