"""Whatever is imported is declared in pyproject.toml, so that a fresh install has it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OURS = {"attention_impls", "bench", "leaderboard", *(p.stem for p in (ROOT / "tests").iterdir())}
IMPORT_NAMES = {
    "import-linter": "importlinter",
    "nvidia-ml-py": "pynvml",
    "pillow": "PIL",
    "pytest-benchmark": "pytest_benchmark",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
"""Distributions that are imported under another name."""


def declared(*requirement_lists: Iterable[str]) -> set[str]:
    names = (re.split(r"[\[<>=! ]", line)[0] for line in chain(*requirement_lists))
    return {IMPORT_NAMES.get(name, name) for name in names}


ENGINES = declared(*TABLE["project"]["optional-dependencies"].values())
OPTIONAL = {"kornia", "triton", *ENGINES}
"""What torch brings on some platforms, or one program needs; code says so when it is missing."""
RUNTIME = declared(TABLE["project"]["dependencies"])
TESTING = RUNTIME | declared(TABLE["dependency-groups"]["tests"])


def imported(text: str) -> set[str]:
    """Top-level packages that a source imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0]
            found |= {str(name.value).split(".")[0]} if isinstance(name, ast.Constant) else set()
    return found


def undeclared(text: str, allowed: set[str]) -> set[str]:
    return imported(text) - allowed - OURS - OPTIONAL - set(sys.stdlib_module_names)


def sources(*folders: str) -> dict[str, str]:
    paths = chain(*((ROOT / folder).rglob("*.py") for folder in folders))
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in paths}


def test_the_program_imports_what_it_declares() -> None:
    found = sources("attention_impls", "bench", "site/leaderboard")
    missing = {path: undeclared(text, RUNTIME) for path, text in found.items()}
    assert {path: names for path, names in missing.items() if names} == {}


def test_the_tests_import_what_they_declare() -> None:
    siblings = {p.stem for p in (ROOT / "tests").rglob("*.py")}
    missing = {
        path: undeclared(text, TESTING | siblings) for path, text in sources("tests").items()
    }
    assert {path: names for path, names in missing.items() if names} == {}


def test_everything_declared_for_running_is_imported() -> None:
    used = set(chain(*map(imported, sources("attention_impls", "bench", "site").values())))
    assert RUNTIME - used == set()


def test_an_undeclared_import_is_noticed() -> None:
    """Negative control, at the top and inside a function."""
    text = """
import os, torch
from scipy import stats
def f():
    import einops.layers
    importlib.import_module("xformers.ops")
"""
    assert undeclared(text, {"torch"}) == {"scipy", "einops", "xformers"}


def test_only_an_executor_names_its_engine() -> None:
    """The core runs without: functions of an executor and of its folder alone import its engine.

    Triton's place are the kernels' own modules, which a backend imports where it launches them.
    """
    for path, text in sources("attention_impls", "bench", "site/leaderboard").items():
        if path.startswith("attention_impls/triton_parts/"):
            assert not imported(text) & (ENGINES - {"triton"}), path
        elif not path.startswith(("bench/executors/", "bench/ray/")):
            assert not imported(text) & ENGINES, path
    assert "ray" in imported(sources("bench/ray")["bench/ray/cluster.py"])
