"""Which code this is: version, commit, and whether the code differs from the commit."""

import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_CODE = ("attention_impls", "bench")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """Identity of the code that runs."""

    version: str
    commit: str | None
    """None outside a git checkout."""
    dirty: bool
    """The code differs from the commit, or there is no commit to compare with."""


def checkout() -> Checkout:
    """Read the identity of the code that runs."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", *_CODE)
    return Checkout(version=suite_version(), commit=commit, dirty=commit is None or bool(changes))


def suite_version() -> str:
    """Version of the installed distribution; `0+source` when run without installing."""
    try:
        return version("attnbench")
    except PackageNotFoundError:
        return "0+source"


def _git(*arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None or not (_ROOT / ".git").exists():
        return None
    done = subprocess.run(
        [git, "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
