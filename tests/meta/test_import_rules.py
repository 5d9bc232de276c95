"""import-linter keeps who may import whom; each of its contracts is broken here once."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("attention_impls", "bench", "site/leaderboard")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python files and the settings of this tree."""
    target = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        python = shutil.ignore_patterns("__pycache__", "static", "templates")
        shutil.copytree(ROOT / package, target / package, ignore=python)
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def contracts(tree: Path) -> dict[str, str]:
    """Run import-linter on `tree`; return KEPT or BROKEN per contract, and the text as `report`."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "site")]),
        "COLUMNS": "300",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()",
         "--no-cache"],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    verdicts = {
        found[1]: found[2]
        for line in done.stdout.splitlines()
        if (found := re.fullmatch(r"(.+) (KEPT|BROKEN)(?: \(.+\))?", line))
    }
    assert verdicts, done.stdout + done.stderr
    return {**verdicts, "report": done.stdout}


@dataclass(frozen=True)
class Breach:
    contract: str
    file: str
    statement: str
    also: str = ""
    """Another new file that the statement needs."""


BREACHES = (
    Breach(
        "leaderboard -> bench -> attention_impls, never back",
        "bench/checkout.py",
        "import leaderboard",
    ),
    Breach(
        "pages see tables, not tensors",
        "site/leaderboard/format.py",
        "import torch",
    ),
    Breach(
        "mathematics does not know it is being measured",
        "attention_impls/multihead.py",
        "import pandas",
    ),
    Breach(
        "variants never import each other",
        "attention_impls/variants/toy_one.py",
        "from attention_impls.variants import toy_two",
        also="attention_impls/variants/toy_two.py",
    ),
    Breach(
        "backends import no variant and no other backend",
        "attention_impls/backends/toy_two_fast.py",
        "from attention_impls.variants import toy_two",
        also="attention_impls/variants/toy_two.py",
    ),
    Breach(
        "nobody imports a page; pages are found by file",
        "site/leaderboard/pages/toy.py",
        "from leaderboard.pages import home",
    ),
    Breach(
        "nothing imports itself by a detour",
        "bench/safetensors.py",
        "import bench.weights",
    ),
)


def test_every_contract_is_kept_and_has_its_breach_below(copy: Path) -> None:
    verdicts = contracts(copy)
    assert {v for k, v in verdicts.items() if k != "report"} == {"KEPT"}, verdicts["report"]
    assert verdicts.keys() - {"report"} == {b.contract for b in BREACHES}


@pytest.mark.parametrize("breach", BREACHES, ids=lambda b: b.contract)
def test_a_breach_breaks_its_contract_and_names_the_file(breach: Breach, copy: Path) -> None:
    file, also = copy / breach.file, copy / breach.also
    before = file.read_text(encoding="utf-8") if file.exists() else None
    try:
        file.write_text(f"{breach.statement}\n{before or ''}", encoding="utf-8")
        if breach.also:
            also.write_text("", encoding="utf-8")
        verdicts = contracts(copy)
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before, encoding="utf-8")
        if breach.also:
            also.unlink()
    broken = [name for name, verdict in verdicts.items() if verdict == "BROKEN"]
    assert broken == [breach.contract], verdicts["report"]
    module = breach.file.removeprefix("site/").removesuffix(".py").replace("/", ".")
    relative = f".{module.rpartition('.')[2]} "
    assert module in verdicts["report"] or relative in verdicts["report"]
