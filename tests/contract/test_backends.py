"""Every backend: the reference's function and gradients, its parameters, and reasons why not."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.backend_parity import (
    DTYPES,
    broken,
    differences,
    execution,
    layer,
    shapes,
    uses_the_very_same_parameters,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attention_impls import AttentionShape, Grid, backends, load, names
from attention_impls import compiled as compile_module
from attention_impls.registry import load_backend
from attention_impls.spec import Backend, DType

ROOT = Path(__file__).parents[2]
SHAPE = AttentionShape(2, Grid(5, 7), 3, 60)
OWN = [
    (variant, name)
    for variant in names()
    for name in backends(variant)
    if name not in ("reference", "compile")
]
SDPA = [name for variant, name in OWN if variant == "softmax" and name.startswith("sdpa")]
ON_CPU = [name for name in SDPA if not load_backend("softmax", name).unsupported(execution(SHAPE))]


def softmax(name: str) -> Backend:
    return load_backend("softmax", name)


def test_the_five_ways_to_run_sdpa() -> None:
    assert SDPA == ["sdpa", "sdpa_cudnn", "sdpa_efficient", "sdpa_flash", "sdpa_math"]
    assert {"sdpa", "sdpa_flash", "sdpa_math"} <= set(ON_CPU)


@pytest.mark.parametrize(("variant", "name"), OWN)
def test_names_are_those_of_the_file(variant: str, name: str) -> None:
    backend = load_backend(variant, name)
    assert (backend.variant, backend.name) == (variant, name)
    assert set(backend.tolerance) == set(DTYPES)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ON_CPU)
def test_output_and_every_gradient_equal_the_reference(
    name: str, dtype: DType, causal: bool
) -> None:
    found = [d for shape in shapes(causal=causal) for d in differences(softmax(name), shape, dtype)]
    assert found == []


@pytest.mark.parametrize(("variant", "name"), OWN)
def test_adopts_the_very_same_parameters(variant: str, name: str) -> None:
    assert uses_the_very_same_parameters(load_backend(variant, name), SHAPE)


def test_a_backend_that_copies_parameters_is_found() -> None:
    honest = softmax("sdpa")
    copying = replace(honest, adopt=lambda m: honest.adopt(load("softmax").build(SHAPE)))
    assert not uses_the_very_same_parameters(copying, SHAPE)


class Wrong(nn.Module):
    """SDPA with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, grid: Grid) -> Tensor:
        scale = q.shape[-1] ** -0.5
        if self.fault == "scale":
            scale *= 1.05
        if self.fault == "gradient":
            k = k.detach()
        if self.fault == "last key":
            k, v = k[:, :, :-1], v[:, :, :-1]
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return out * 1.05 if self.fault == "output" else out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", ["scale", "gradient", "last key", "output"])
def test_a_backend_that_is_slightly_wrong_is_refused(fault: str, dtype: DType) -> None:
    shape = AttentionShape(2, Grid(7, 9), 3, 64)
    assert differences(broken(softmax("sdpa"), Wrong("none")), shape, dtype) == []
    assert differences(broken(softmax("sdpa"), Wrong(fault)), shape, dtype)


@pytest.mark.parametrize("name", sorted(set(SDPA) - {"sdpa", "sdpa_math", "sdpa_flash"}))
def test_a_family_that_the_cpu_lacks_says_so(name: str) -> None:
    backend = softmax(name)
    (reason,) = backend.unsupported(execution(SHAPE))
    assert "does not run on cpu" in reason
    with pytest.raises(RuntimeError, match=r"[Nn]o (available kernel|viable backend)"):
        backend.adopt(layer(SHAPE, "float32"))(torch.zeros(2, 35, 180), SHAPE.grid)


@pytest.mark.parametrize("name", SDPA)
def test_a_missing_gpu_is_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert softmax(name).unsupported(execution(SHAPE, device="cuda")) == ("no CUDA device",)


def test_a_layer_without_a_softmax_mix_is_not_adopted() -> None:
    with pytest.raises(TypeError, match="variant softmax"):
        softmax("sdpa").adopt(load("linformer").build(SHAPE))


class Operators(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ON_CPU)
def test_executed_names_what_really_ran(name: str, dtype: DType) -> None:
    backend = softmax(name)
    executed = backend.executed(execution(SHAPE, dtype))
    x = torch.zeros(2, 35, 180, dtype=getattr(torch, dtype))
    with Operators() as operators:
        backend.adopt(layer(SHAPE, dtype))(x, SHAPE.grid)
    fused = "aten._scaled_dot_product_flash_attention_for_cpu.default" in operators.ran
    assert executed == ("flash_attention" if fused else "math")
    assert fused == (name != "sdpa_math")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SDPA)
def test_on_a_gpu_each_family_is_right_or_says_why_not(name: str, dtype: DType) -> None:
    backend = softmax(name)
    for shape in (s for causal in (False, True) for s in shapes(causal=causal)):
        asked = execution(shape, dtype, "cuda")
        if reasons := backend.unsupported(asked):
            assert all(reasons)
            continue
        assert differences(backend, shape, dtype, "cuda") == []
        if name != "sdpa":
            pinned = {"sdpa_flash": "flash_attention", "sdpa_math": "math"}
            pinned |= {"sdpa_efficient": "efficient_attention", "sdpa_cudnn": "cudnn_attention"}
            assert backend.executed(asked) == pinned[name]


# torch.compile ------------------------------------------------------------------------------------


def test_compile_exists_for_every_variant() -> None:
    for name in names():
        backend = load_backend(name, "compile")
        assert (backend.variant, backend.name) == (name, "compile")
        assert uses_the_very_same_parameters(backend, AttentionShape(1, Grid(8, 8), 2, 8))


@pytest.mark.parametrize(
    ("device", "present", "reason"),
    [
        ("cpu", (), "C[+][+] compiler"),
        ("cuda", ("gcc",), "triton"),
        ("cuda", (), "C compiler"),
        ("cuda", ("gcc",), "no CUDA device"),
    ],
)
def test_compile_says_what_it_lacks(
    device: str, present: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(
        compile_module.shutil, "which", lambda name: name if name in present else None
    )
    monkeypatch.setattr(compile_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reasons = compile_module.unsupported(execution(SHAPE, device=device))
    assert any(re.search(reason, given) for given in reasons), reasons


def test_compile_lacks_nothing_where_a_compiler_and_headers_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compile_module.shutil, "which", lambda name: name)
    monkeypatch.setattr(compile_module.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    (missing,) = compile_module.unsupported(execution(SHAPE))
    assert "Python.h" in missing
    (tmp_path / "Python.h").touch()
    assert compile_module.unsupported(execution(SHAPE)) == ()


QUIET = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCH_LOGS": "-dynamo"}
"""One thread, no pool of compiler processes, no log lines for the refusals that are meant."""


def in_a_fresh_process(what: str) -> Any:
    """Run `compiled_in_a_fresh_process.py`, where no import hook wraps functions in type checks."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "contract.compiled_in_a_fresh_process", what],
        cwd=ROOT,
        env={**os.environ, **QUIET, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@cache
def traced() -> dict[str, dict[str, object]]:
    return in_a_fresh_process("traced")


def test_every_variant_is_one_graph_without_breaks() -> None:
    found = traced()["graphs"]
    assert set(found) == set(names())
    assert set(found.values()) == {"equal"}, found


def test_many_shapes_in_one_process_do_not_use_up_the_recompilations() -> None:
    want = {"own code": 9, "shared code": 8, "a graph break": "refused"}
    assert traced()["shapes"] == want


# FlexAttention ------------------------------------------------------------------------------------


def pattern_of(variant: str, shape: AttentionShape) -> Any:
    adopted = load_backend(variant, "flex").adopt(load(variant).build(shape))
    return adopted.mix.pattern(shape.tokens, torch.device("cpu"))


def seen_by_blocks(pattern: Any, tokens: int) -> Tensor:
    """What FlexAttention computes: whole blocks, and by the rule within those seen in part."""
    places = torch.arange(tokens)
    heads = torch.arange(pattern.some.shape[0])[:, None, None]
    by_rule = pattern.rule(torch.tensor(0), heads, places[:, None], places)
    block = places // pattern.block
    some, every = (t[:, block][:, :, block] for t in (pattern.some, pattern.every))
    return every | (some & by_rule)


def seen_by_reference(variant: str, shape: AttentionShape) -> Tensor:
    """Where the reference's weights are not 0."""
    tokens = shape.tokens
    wide = replace(shape, head_dim=tokens)
    mix = load(variant).build(wide).double().mix
    q = torch.zeros(1, shape.heads, tokens, tokens, dtype=torch.float64)
    v = torch.eye(tokens, dtype=torch.float64).expand_as(q)
    x = torch.zeros(1, tokens, wide.channels, dtype=torch.float64)
    return mix(q, q, v, x, wide.grid)[0] > 0


@pytest.mark.parametrize(
    ("variant", "tokens", "extra", "causal"),
    [
        ("softmax", 300, 0, True),
        ("sliding_window", 700, 0, False),
        ("sliding_window", 700, 0, True),
        ("sliding_window", 598, 2, False),
        ("bigbird", 770, 0, False),
    ],
)
def test_flex_sees_what_the_reference_sees(
    variant: str, tokens: int, extra: int, causal: bool
) -> None:
    shape = AttentionShape(1, Grid(1, tokens), 2, 1, extra_tokens=extra, causal=causal)
    pattern = pattern_of(variant, shape)
    want = seen_by_reference(variant, shape)[:, extra:]
    got = seen_by_blocks(pattern, tokens + extra)[:, extra:].expand_as(want)
    assert torch.equal(got, want)
    assert not torch.equal(got.roll(1, 2), want)
    assert not pattern.every.all(), "nothing is skipped"


def test_flex_says_what_it_cannot_run() -> None:
    reasons = load_backend("bigbird", "flex").unsupported(
        replace(
            execution(SHAPE, variant="bigbird"),
            options=replace(load("bigbird").options, block_tokens=4),
        )
    )
    assert any("needs blocks of 64" in reason for reason in reasons)
    assert any("no backward pass on CPU" in reason for reason in reasons)
    with pytest.raises(TypeError, match="not that of variant bigbird"):
        load_backend("bigbird", "flex").adopt(load("linformer").build(SHAPE))


@pytest.mark.slow
@pytest.mark.skipif(
    bool(compile_module.unsupported(execution(SHAPE))), reason="no compiler on this machine"
)
def test_flex_output_equals_the_reference() -> None:
    found = in_a_fresh_process("flex")["flex"]
    assert set(found) == {"softmax", "sliding_window", "bigbird"}
    assert max(found.values()) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(
    bool(compile_module.unsupported(execution(SHAPE))), reason="no compiler on this machine"
)
def test_compiled_output_and_gradients_equal_the_reference() -> None:
    assert in_a_fresh_process("compiled") == {"parity": {"softmax": []}}
