"""Triton's interpreter, for the tests that name its fixture."""

import importlib.util
import sys

import pytest

_KERNELS = "attention_impls.triton_parts.tiles"


def kernels_are_interpreted() -> bool | None:
    """How this process has imported the kernels, which cannot be undone; None: it has not."""
    tiles = sys.modules.get(_KERNELS)
    return None if tiles is None else tiles.INTERPRETED.value


@pytest.fixture
def triton_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on the CPU; the variable is gone when the test is over."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if kernels_are_interpreted() is False:
        pytest.skip("this process has compiled the kernels for a GPU: run these tests alone")
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def triton_on_gpu() -> None:
    """Kernels run on the GPU."""
    if kernels_are_interpreted():
        pytest.skip("this process interprets the kernels: run by `nox -s gpu`")
