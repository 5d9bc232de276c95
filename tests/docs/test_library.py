"""What README.md shows of use as a library runs as it stands there."""

import re
from typing import Any

import torch
from documents import text_of

from attention_impls import load


def shown(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text_of(page), re.M | re.S)


def test_the_lines_of_the_readme_run() -> None:
    (code,) = shown("README.md")
    held: dict[str, Any] = {}
    exec(code, held)  # noqa: S102 - the document of this very tree
    assert held["out"].shape == (2, 196, 192)
    assert torch.isfinite(held["out"]).all()
    assert held["flops"] == load("inline").flops(held["shape"]) > 0
    assert held["reasons"] == ("no causal form: use causal=False",)
