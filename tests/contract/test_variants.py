"""Every variant of the tree against every check of the contract, one test a pair."""

from pathlib import Path

import pytest
from contract.checks import CHECKS

import attention_impls
from attention_impls.registry import load, names_in

VARIANTS = names_in(Path(attention_impls.__file__).parent / "variants")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str, check: str) -> None:
    CHECKS[check](load(name))
