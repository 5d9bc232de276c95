"""Which tests may run side by side: files, and the variants of the contract's one large file."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, those of the contract by variant."""
    for item in items:
        group = str(item.path)
        call = getattr(item, "callspec", None)
        if item.path.name == "test_variants.py" and call is not None:
            group += str(call.params["name"])
        item.add_marker(pytest.mark.xdist_group(group))
