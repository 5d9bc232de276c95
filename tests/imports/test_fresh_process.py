"""What importing costs and needs, seen from processes that have imported nothing yet."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "fvcore", "pandas", "plotly", "sklearn")


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "site")])
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def loaded_after(statement: str, packages: tuple[str, ...]) -> set[str]:
    """Which of `packages` a fresh process holds once it has run `statement`."""
    report = f"import sys\n{statement}\nprint(*sorted(set(sys.modules) & {set(packages)!r}))"
    done = fresh(report)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import attention_impls; attention_impls.names()",
        "from attention_impls import shapes; shapes.Grid(2, 2)",
        "import attention_impls; [attention_impls.backends(n) for n in attention_impls.names()]",
        "import bench.model",
        "import bench.plan; bench.plan.load_plan('quick', bench.plan.everything('cpu'))",
        "import bench.cli",
    ],
)
def test_naming_and_planning_load_nothing_heavy(statement: str) -> None:
    assert loaded_after(statement, HEAVY) == set()


@pytest.mark.parametrize(
    "statement",
    ["import bench.table", "import bench.tabulation", "import leaderboard.build"],
)
def test_tables_and_pages_load_no_torch(statement: str) -> None:
    assert loaded_after(statement, ("torch", "fvcore", "sklearn")) == set()


HELP = """
from click.testing import CliRunner
from bench.cli import main
assert '--address' in CliRunner().invoke(main, ['run', '--help']).output
"""


@pytest.mark.parametrize(
    "statement",
    [
        "from bench.executor import executors; executors()",
        "import bench.measure, bench.sweep, bench.slot",
        HELP,
    ],
)
def test_no_engine_is_loaded_before_it_is_chosen(statement: str) -> None:
    assert loaded_after(statement, ("ray", "submitit")) == set()


def test_the_probe_sees_torch_when_it_is_loaded() -> None:
    """Negative control: loading a variant does import torch."""
    statement = "import attention_impls; attention_impls.load('softmax')"
    assert "torch" in loaded_after(statement, HEAVY)


def test_import_site_is_the_standard_library() -> None:
    assert not (ROOT / "site" / "__init__.py").exists()
    done = fresh("import site; print(site.__file__)")
    assert Path(done.stdout.strip()) == Path(sysconfig.get_path("stdlib")) / "site.py"


def test_a_package_named_site_would_be_noticed(tmp_path: Path) -> None:
    """Negative control: where Python does not freeze `site`, an __init__.py does shadow it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "__init__.py").write_text("", encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-X",
            "frozen_modules=off",
            "-c",
            "import site; print(site.__file__)",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == tmp_path / "site" / "__init__.py"


@pytest.mark.parametrize(
    "before",
    [
        "import attention_impls",
        "from attention_impls.registry import load_backend; load_backend('softmax', 'sdpa')",
        "import attention_impls.backends.softmax_sdpa",
        "from attention_impls.backends import softmax_sdpa",
    ],
)
def test_the_function_backends_is_not_hidden_by_the_folder_backends(before: str) -> None:
    done = fresh(
        f"{before}\nimport attention_impls; print(attention_impls.backends('softmax')[:2])"
    )
    assert done.stdout == "('reference', 'compile')\n", done.stderr


BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {packages!r}:
            raise ModuleNotFoundError(f'{{name}} is blocked', name=name)
sys.meta_path.insert(0, Blocked())
"""

EVERYTHING = """
import attention_impls
from attention_impls.registry import load_backend
for name in attention_impls.names():
    attention_impls.load(name)
    for backend in attention_impls.backends(name):
        if backend != 'reference':
            load_backend(name, backend)
"""


def optional_packages() -> tuple[str, ...]:
    from attention_impls.registry import backends, load_backend, names

    own = ((name, b) for name in names() for b in backends(name) if b != "reference")
    required = (package for name, b in own for package in load_backend(name, b).requires)
    return tuple(sorted({"triton", "flash_attn", "xformers", *required}))


def test_everything_loads_without_the_optional_packages() -> None:
    done = fresh(BLOCKED.format(packages=optional_packages()) + EVERYTHING)
    assert done.returncode == 0, done.stderr


def test_the_block_blocks() -> None:
    """Negative control: a package that everything needs, blocked, does stop the import."""
    done = fresh(BLOCKED.format(packages=("jaxtyping",)) + EVERYTHING)
    assert done.returncode != 0
    assert "jaxtyping is blocked" in done.stderr
