"""What other tools may call, pinned: a change here breaks them and needs a line in CHANGELOG.md."""

import dataclasses
import inspect

import pytest

import attention_impls
from attention_impls.registry import UnknownName
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from bench.model import Case, GridSize, Incorrect, Measured, Ok, Record, TaskRun, Workload, to_json

SURFACE = {"AttentionShape", "Grid", "backbones", "backends", "load", "load_backbone", "names"}
NAMES = attention_impls.names()


def fields(noun: type) -> list[tuple[str, object]]:
    """Fields in order, each with its default (or REQUIRED)."""
    return [(f.name, f.default) for f in dataclasses.fields(noun)]


REQUIRED = dataclasses.MISSING


def parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_the_package_exports_exactly_this() -> None:
    assert set(attention_impls.__all__) == SURFACE
    assert all(hasattr(attention_impls, name) for name in SURFACE)


def test_functions_take_exactly_this() -> None:
    assert parameters(attention_impls.names) == []
    assert parameters(attention_impls.load) == ["name"]
    assert parameters(attention_impls.backends) == ["name"]
    assert parameters(attention_impls.backbones) == []


def test_sizes_have_exactly_these_fields_in_this_order() -> None:
    assert fields(Grid) == [("height", REQUIRED), ("width", REQUIRED)]
    assert fields(AttentionShape) == [
        ("batch", REQUIRED), ("grid", REQUIRED), ("heads", REQUIRED), ("head_dim", REQUIRED),
        ("extra_tokens", 0), ("causal", False),
    ]  # fmt: skip
    assert AttentionShape(2, Grid(3, 5), 4, 8, 1).tokens == 16
    assert AttentionShape(2, Grid(3, 5), 4, 8).channels == 32


def test_the_names_are_sorted_strings() -> None:
    assert attention_impls.names() == tuple(sorted(set(NAMES)))
    assert all(type(name) is str for name in NAMES)
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_answers_the_public_questions(name: str) -> None:
    spec = attention_impls.load(name)
    shape = AttentionShape(1, Grid(8, 8), 2, 16)
    assert isinstance(spec, AttentionSpec)
    assert spec.name == name
    assert spec.unsupported(shape, spec.options) == spec.unsupported(shape)
    assert type(spec.flops(shape)) is int
    assert spec.flops(shape) == spec.flops(shape, spec.options) > 0
    assert attention_impls.backends(name)[:2] == ("reference", "compile")
    assert parameters(spec.build) == ["shape", "options"]
    assert parameters(spec.flops) == ["shape", "options"]
    assert parameters(spec.unsupported) == ["shape", "options"]
    if spec.adopt_official is not None:
        assert len(parameters(spec.adopt_official)) == 1


def test_a_misspelt_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="softmax"):
        attention_impls.load("sofmax")


WORKLOAD = Workload(
    batch=1, batch_policy="one", grid=GridSize(height=14, width=14), heads=3, head_dim=64,
    dtype="float32", passes="forward", resolution_px=224, patch_px=16,
)  # fmt: skip


def test_a_record_has_this_json_form() -> None:
    record = Record(
        case=Case(variant="softmax", backend="sdpa", level="layer", stimulus=WORKLOAD),
        variant_revision=1,
        outcome=Ok(
            measurements=(Measured(metric="latency", rounds=((0.5, 0.25),)),), executed="math"
        ),
    )
    assert to_json(record) == {
        "case": {
            "variant": "softmax",
            "backend": "sdpa",
            "options": {},
            "level": "layer",
            "stimulus": {
                "kind": "workload", "batch": 1, "batch_policy": "one",
                "grid": {"height": 14, "width": 14}, "heads": 3, "head_dim": 64,
                "extra_tokens": 0, "causal": False, "dtype": "float32", "passes": "forward",
                "resolution_px": 224, "patch_px": 16,
            },
        },
        "variant_revision": 1,
        "task": None,
        "outcome": {
            "kind": "ok",
            "measurements": [{"kind": "measured", "metric": "latency", "rounds": [[0.5, 0.25]]}],
            "executed": "math",
            "batch": None,
            "checked": None,
            "training": None,
        },
    }  # fmt: skip


def test_a_task_and_a_failure_have_this_json_form() -> None:
    case = Case(
        variant="inline", backend="reference", options={"residual": False}, level="model",
        stimulus=TaskRun(task="digits", seed=2),
    )  # fmt: skip
    outcome = Incorrect(reason="not a number", error=None, allowed=1e-5)
    written = to_json(Record(case=case, variant_revision=1, outcome=outcome))
    assert written["case"]["stimulus"] == {"kind": "task", "task": "digits", "seed": 2}
    assert written["case"]["options"] == {"residual": False}
    assert written["outcome"] == {
        "kind": "incorrect", "reason": "not a number", "error": None, "allowed": 1e-5,
    }  # fmt: skip


def test_the_pin_notices_a_new_field() -> None:
    """Negative control: one more field with a default is a difference."""
    wider = dataclasses.make_dataclass(
        "wider", [("window", int, 7)], bases=(AttentionShape,), frozen=True
    )
    assert fields(wider) != fields(AttentionShape)
