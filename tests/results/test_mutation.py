"""Any leaf of any file changed: refused with path and reason, or the very same run."""

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_run import write_sample

from bench import strict_json
from bench.model import Run, VariantRecords
from bench.rules import check_run
from bench.submission import (
    RefusedError,
    StoredRun,
    content_id,
    identified,
    read_results,
    read_run,
    write_run,
)

Place = tuple[str | int, ...]


@cache
def original(root: Path) -> tuple[Path, dict[str, Any], StoredRun]:
    folder = write_sample(root, variants=("linear_relu", "softmax"))
    documents = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    return folder, documents, read_run(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutation")


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in a document, branches included."""
    yield at
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield from places(child, (*at, key))


@cache
def all_places(root: Path, name: str) -> tuple[Place, ...]:
    return tuple(places(original(root)[1][name]))


replacements = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**65),
    st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20),
    st.just([]), st.just({}), st.just("<script>alert(1)</script>"),
    st.just("\u202etxt"), st.just("softmax"), st.just("ok"),
)  # fmt: skip


def changed(value: Any, how: str, other: Any) -> Any:
    match how, value:
        case "slightly", bool():
            return not value
        case "slightly", int() | float():
            return value * 2 + 1
        case "slightly", str():
            return value[1:] + "x"
        case "type", int() | float():
            return str(value)
        case "type", str():
            return [value]
        case "reorder", list():
            return value[::-1]
        case _:
            return other


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, float, str, Any]:
    name = draw(st.sampled_from(["run.json", "softmax.json", "linear_relu.json"]))
    how = draw(st.sampled_from(["slightly", "type", "replace", "drop", "add", "double", "reorder"]))
    return name, draw(st.floats(0, 1, exclude_max=True)), how, draw(replacements)


def mutated(root: Path, mutation: tuple[str, float, str, Any]) -> tuple[str, Any]:
    name, share, how, other = mutation
    document = copy.deepcopy(original(root)[1][name])
    every = all_places(root, name)
    at = every[int(share * len(every))]
    if not at:
        return name, changed(document, how, other)
    parent = document
    for key in at[:-1]:
        parent = parent[key]
    last = at[-1]
    if how == "drop":
        del parent[last]
    elif how == "add" and isinstance(parent, dict):
        parent["added"] = other
    elif how in ("add", "double") and isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]) if how == "double" else other)
    else:
        parent[last] = changed(parent[last], how, other)
    return name, document


@given(mutations())
@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_changed_leaf_is_refused_or_changes_nothing(
    root: Path, mutation: tuple[str, float, str, Any]
) -> None:
    folder, documents, stored = original(root)
    name, document = mutated(root, mutation)
    path = folder / name
    path.write_text(strict_json.pretty(document))
    try:
        runs, refusals = read_results(root)
        if runs:
            assert runs == (stored,)
            assert refusals == ()
        else:
            (refusal,) = refusals
            assert refusal.path.startswith(f"sample-cpu/{folder.name}")
            assert len(refusal.reason) > 10
        if document != documents[name]:
            assert not runs
    finally:
        path.write_text(strict_json.pretty(documents[name]))


def test_the_original_is_accepted(root: Path) -> None:
    stored = original(root)[2]
    assert read_results(root) == ((stored,), ())


def test_layout_of_run_json_has_no_meaning(root: Path) -> None:
    folder, documents, stored = original(root)
    path = folder / "run.json"
    path.write_text(json.dumps(documents["run.json"]))
    try:
        assert read_results(root) == ((stored,), ())
    finally:
        path.write_text(strict_json.pretty(documents["run.json"]))


@given(mutations())
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_forger_who_signs_again_meets_refusals_or_rules_never_a_crash(
    root: Path, tmp_path_factory: pytest.TempPathFactory, mutation: tuple[str, float, str, Any]
) -> None:
    """Mutates, then computes sha256 and run_id anew, as an attacker could."""
    documents = copy.deepcopy(original(root)[1])
    name, document = mutated(root, mutation)
    if not isinstance(document, dict):
        return
    documents[name] = document
    forged = forge(tmp_path_factory.mktemp("forged"), documents)
    try:
        stored = read_run(forged)
    except RefusedError:
        return
    for finding in check_run(stored):
        assert finding.message


def forge(root: Path, documents: dict[str, Any]) -> Path:
    import hashlib

    header = documents.pop("run.json")
    files = {name.removesuffix(".json"): document for name, document in documents.items()}
    run_id = content_id(header, files)
    environment = header.get("environment")
    machine = environment.get("hardware_id") if isinstance(environment, dict) else None
    usable = isinstance(machine, str) and machine.isprintable() and "/" not in machine
    folder = root / (machine if usable and machine.strip(". ") else "sample-cpu") / run_id
    folder.mkdir(parents=True)
    digests = {}
    for name, document in files.items():
        text = strict_json.pretty({**document, "run_id": run_id})
        (folder / f"{name}.json").write_text(text)
        digests[f"{name}.json"] = hashlib.sha256(text.encode()).hexdigest()
    signed = {**header, "run_id": run_id, "files": digests}
    (folder / "run.json").write_text(strict_json.pretty(signed))
    return folder


def test_the_forger_of_this_test_is_able(root: Path, tmp_path: Path) -> None:
    """Without a mutation the forged folder is accepted: the test above is not vacuous."""
    forged = forge(tmp_path, copy.deepcopy(original(root)[1]))
    assert read_run(forged).run == original(root)[2].run


def test_rounding_again_changes_nothing(root: Path, tmp_path: Path) -> None:
    stored = original(root)[2]
    assert identified(stored.run, stored.files) == (stored.run, stored.files)
    assert write_run(tmp_path, stored.run, stored.files).name == stored.run.run_id
    assert isinstance(stored.run, Run)
    assert isinstance(stored.files[0], VariantRecords)
