"""The fuzzer: a few hundred mutants, and that it notices what it is there to notice."""

import time
from dataclasses import replace
from pathlib import Path

import fuzz_runs
import pytest
from fuzz_runs import Figures, fuzz, look_at_pages, valid_run
from mutants import Mutator, documents_of
from sample_site import catalogue

from bench.submission import StoredRun


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return valid_run(tmp_path_factory.mktemp("valid"), "softmax")


def test_mutants_are_refused_or_the_same_or_found(
    original: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_runs, "KEPT", 12)
    keep = tmp_path / "kept"
    keep.mkdir()
    figures = fuzz(original, 200, 1, keep)
    assert figures.failures == []
    assert figures.endings["refused"] > 60
    assert figures.endings["the very same run"] > 0
    assert sum(n for e, n in figures.endings.items() if "by a rule" in e) > 3
    look_at_pages(figures, keep, tmp_path / "site", catalogue())
    assert figures.failures == []
    assert figures.pages > 20
    assert "0 failures" in str(figures)


def test_the_same_seed_makes_the_same_mutants(original: StoredRun, tmp_path: Path) -> None:
    def first(folder: str, seed: int) -> list[object]:
        mutator = Mutator(documents_of(original.folder), "sample-cpu", seed)
        return [mutator.write(tmp_path / folder / str(n)).how for n in range(40)]

    assert first("a", 3) == first("b", 3)
    assert first("a4", 4) != first("b3", 3)


def endings(original: StoredRun, keep: Path, mutants: int = 60) -> Figures:
    keep.mkdir(exist_ok=True)
    return fuzz(original, mutants, 1, keep)


def test_a_change_that_the_reader_lets_pass_is_noticed(
    original: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = replace(original, run=replace(original.run, dirty=True))
    monkeypatch.setattr(fuzz_runs, "read_results", lambda _root: ((changed,), ()))
    figures = endings(original, tmp_path / "k")
    assert figures.endings["CHANGED AND ACCEPTED"] > 10
    assert any("CHANGED AND ACCEPTED" in f for f in figures.failures)


def test_a_run_that_disappears_is_noticed(
    original: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_runs, "read_results", lambda _root: ((), ()))
    assert endings(original, tmp_path / "k", 3).endings["GONE, AND SAID NOWHERE"] == 3


def test_a_crash_is_noticed(
    original: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_stored: StoredRun) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(fuzz_runs, "check_run", broken)
    figures = endings(original, tmp_path / "k")
    assert figures.endings["CRASH"] > 0
    assert any("planted" in f for f in figures.failures)


def test_a_hang_is_noticed(
    original: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hanging(_root: Path) -> None:
        while True:
            time.process_time()

    monkeypatch.setattr(fuzz_runs, "PATIENCE_S", 0.05)
    monkeypatch.setattr(fuzz_runs, "read_results", hanging)
    assert endings(original, tmp_path / "k", 2).endings["HANG"] == 2


def test_a_crash_of_the_site_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_given: object, **_more: object) -> None:
        raise OverflowError("planted")

    monkeypatch.setattr(fuzz_runs, "load_table", broken)
    figures = Figures()
    look_at_pages(figures, tmp_path, tmp_path / "site", catalogue())
    assert "THE SITE CRASHED" in figures.failures[0]
