"""Every variant of the tree against every check of the contract, one test a pair.

With `--variant-file FILE` the variants of these files alone, from outside the tree.
"""

from pathlib import Path

import pytest
from contract.checked_layer import closer
from contract.checks import CHECKS

import attention_impls
from attention_impls.registry import load, names_in, outside_names

OUTSIDE = outside_names()
VARIANTS = OUTSIDE or names_in(Path(attention_impls.__file__).parent / "variants")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str, check: str) -> None:
    if check == "vector_matches" and name in OUTSIDE:
        pytest.skip("the vector is written when the file is in the tree: nox -s vector -- NAME")
    CHECKS[check](load(name))


WITH_SIZES_IN_TOKENS = [name for name in VARIANTS if closer(load(name)) is not load(name)]


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "vector_matches"])
@pytest.mark.parametrize("name", WITH_SIZES_IN_TOKENS)
def test_variant_close_up(name: str, check: str) -> None:
    """The same with sizes that do not hold the contract's whole sequences."""
    CHECKS[check](closer(load(name)))
