"""Triton for the whole process; variants from outside the tree; which tests run side by side."""

import importlib
import importlib.util
import pkgutil
from pathlib import Path

import pytest
import torch

from attention_impls import triton_parts
from attention_impls.registry import add_variant_file


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the contract be run on a file before it is in the tree."""
    parser.addoption(
        "--variant-file",
        action="append",
        default=[],
        help="With tests/contract/test_variants.py: check this variant from outside the tree.",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Make `--variant-file` known, and settle how Triton's kernels are imported."""
    for file in config.getoption("--variant-file"):
        try:
            add_variant_file(Path(file))
        except ValueError as refusal:
            raise pytest.UsageError(str(refusal)) from None
    _interpret_triton()


def _interpret_triton() -> None:
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
