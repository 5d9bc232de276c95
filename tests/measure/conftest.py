"""Outside variants for one test, and a fork server for many."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from attention_impls import registry
from bench.launch import Workers


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the faulty variants known, and forgotten again."""
    monkeypatch.setattr(registry, "_outside", {})
    for path in sorted(tiny.FAULTY.glob("*.py")):
        registry.add_variant_file(path)
    yield
    registry.load.cache_clear()


@pytest.fixture(scope="session")
def pid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `hangs` says which process it is."""
    return tmp_path_factory.mktemp("hangs") / "pid"


@pytest.fixture(scope="session")
def workers(pid_file: Path) -> Iterator[Workers]:
    """Workers on CPU with one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANGS_PID_FILE", str(pid_file))
        with Workers("cpu", 1) as workers:
            yield workers
