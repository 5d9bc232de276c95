"""The vector tool: what it writes, what it refuses, what it notices."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from click.testing import CliRunner

from attention_impls.registry import load
from bench import vector
from bench.alternatives import (
    changed_fields,
    close_up,
    discrete_alternatives,
    doubled_alternatives,
)
from bench.vector import StaleRevisionError, differences, main, write


@dataclass(frozen=True, kw_only=True)
class Options:
    kind: Literal["a", "b", "c"] = "a"
    size: int | Literal["auto"] = 4
    steps: int = 0
    bias: bool = True
    share: float | None = None

    def __post_init__(self) -> None:
        if self.kind == "c" or self.steps > 3:
            raise ValueError("refused")


def test_discrete_alternatives_change_one_field_each() -> None:
    changes = [changed_fields(o, Options()) for o in discrete_alternatives(Options())]
    assert changes == [{"kind": "b"}, {"size": "auto"}, {"bias": False}]


def test_doubled_alternatives_change_one_integer_each() -> None:
    changes = [changed_fields(o, Options()) for o in doubled_alternatives(Options())]
    assert changes == [{"size": 8}, {"steps": 3}]


def test_sizes_in_tokens_are_shrunk_for_short_sequences() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sized:
        window_tokens: int = 256
        landmarks: int = 49

    assert changed_fields(close_up(Sized()), Sized()) == {"window_tokens": 8}
    assert close_up(Options()) == Options()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(vector, "FOLDER", tmp_path)
    return tmp_path


def scaled(factor: float, **changes: int):
    """Softmax whose mix is `factor` times too large."""
    spec = load("softmax")

    def make(shape, options):
        layer = spec.make(shape, options)
        layer.mix.register_forward_hook(lambda module, inputs, out: factor * out)
        return layer

    return replace(spec, make=make, **changes)


def test_written_vectors_match_and_fit(folder: Path) -> None:
    spec = load("softmax")
    path = write(spec)
    assert path == folder / "softmax.json"
    assert path.stat().st_size <= 2048
    assert differences(spec) == ()
    before = path.read_bytes()
    write(spec)
    assert path.read_bytes() == before


def test_a_moved_output_needs_a_new_revision(folder: Path) -> None:
    write(scaled(1))
    with pytest.raises(StaleRevisionError, match=r"revision is 1, must be > 1"):
        write(scaled(1.00001))
    assert "differs by" in differences(scaled(1.00001))[0]
    assert differences(scaled(1 + 1e-9)) == ()
    write(scaled(1.00001, revision=2))
    assert differences(scaled(1.00001, revision=2)) == ()
    assert any("revision is 2" in reason for reason in differences(scaled(1.00001)))
    with pytest.raises(StaleRevisionError):
        write(scaled(1))


def test_a_case_that_is_gone_or_new_is_noticed(folder: Path) -> None:
    path = write(load("softmax"))
    pinned = json.loads(path.read_text())
    pinned["outputs"].pop()
    path.write_text(json.dumps(pinned))
    assert "other cases" in differences(load("softmax"))[0]


def test_provenance_is_kept_while_the_revision_stays(folder: Path) -> None:
    spec = load("softmax")
    spec = replace(spec, paper=replace(spec.paper, code="https://example.org"))
    write(spec, official_error=2e-7)
    stated = {"kind": "official", "code": "https://example.org", "error": 2e-7}
    write(spec)
    assert json.loads((folder / "softmax.json").read_text())["provenance"] == stated
    write(replace(spec, revision=2))
    assert json.loads((folder / "softmax.json").read_text())["provenance"] == {"kind": "self"}
    with pytest.raises(ValueError, match=r"paper\.code is None"):
        write(replace(spec, paper=replace(spec.paper, code=None)), official_error=1e-7)


def test_outputs_that_are_no_numbers_are_not_pinned(folder: Path) -> None:
    with pytest.raises(ValueError, match="an output is nan"):
        write(scaled(torch.nan))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text.replace('"softmax"', '"other"'), "name is 'other'"),
        (lambda text: text.replace('"kind"', '"sort"'), "provenance.kind"),
        (lambda text: text + " " * 2048, "must be <= 2048"),
        (lambda text: text[:-10], "not JSON"),
    ],
)
def test_a_damaged_vector_is_refused(damage, reason: str, folder: Path) -> None:
    path = write(load("softmax"))
    path.write_text(damage(path.read_text()))
    run = CliRunner().invoke(main, ["--check", "softmax"])
    assert run.exit_code == 1
    assert reason in run.output


def test_command_line(folder: Path) -> None:
    missing = CliRunner().invoke(main, ["--check", "softmax"])
    assert missing.exit_code == 1
    assert "write it with `nox -s vector -- softmax`" in missing.output
    assert CliRunner().invoke(main, ["softmax"]).output == "wrote softmax.json\n"
    assert CliRunner().invoke(main, ["--check", "softmax"]).output == ""
    unknown = CliRunner().invoke(main, ["sofmax"])
    assert unknown.exit_code == 1
    assert "Did you mean 'softmax'" in unknown.output
