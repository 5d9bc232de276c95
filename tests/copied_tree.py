"""A copy of the tree with the examples of CONTRIBUTING.md dropped in as new files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("attention_impls", "bench", "site", "tests/contract", "tests/vectors")
_EXAMPLE = re.compile(r"^`(?P<path>[\w/]+\.py)`:\n\n```python\n(?P<code>.*?)^```$", re.M | re.S)


def examples() -> dict[str, str]:
    """Path -> contents of every whole file that CONTRIBUTING.md shows."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {found["path"]: found["code"] for found in _EXAMPLE.finditer(text)}


def copied(target: Path) -> Path:
    """Copy the sources and the settings to `target`."""
    for folder in FOLDERS:
        built = shutil.ignore_patterns("__pycache__", "_build")
        shutil.copytree(ROOT / folder, target / folder, ignore=built)
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def run_in(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `tree`, which comes first on the path."""
    path = os.pathsep.join([str(tree), str(tree / "site"), str(tree / "tests")])
    return subprocess.run(
        [sys.executable, *command],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
