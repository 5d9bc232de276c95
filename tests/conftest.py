"""Triton for the whole process; which tests may run side by side: files, variants of a contract."""

import importlib
import importlib.util
import pkgutil

import pytest
import torch

from attention_impls import triton_parts


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Import triton and the kernels as the interpreter needs them, which is settled at import.

    Whoever came first would settle it otherwise: something of torch, or a backend that a test looks
    at. With a GPU kernels are compiled, and nothing is done.
    """
    if importlib.util.find_spec("triton") is None or torch.cuda.is_available():
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for module in pkgutil.iter_modules(triton_parts.__path__):
            importlib.import_module(f"{triton_parts.__name__}.{module.name}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, those of the contract by variant."""
    for item in items:
        group = str(item.path)
        call = getattr(item, "callspec", None)
        if item.path.name == "test_variants.py" and call is not None:
            group += str(call.params["name"])
        item.add_marker(pytest.mark.xdist_group(group))
