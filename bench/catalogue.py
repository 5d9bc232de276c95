"""The tree as text: what there is to measure and how it is described. Imports torch when read."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.model import Case, GridSize, TaskRun, Workload
from bench.table import (
    AnalysisEntry,
    BackboneEntry,
    BackendEntry,
    Column,
    PaperEntry,
    TaskEntry,
    VariantEntry,
)

if TYPE_CHECKING:
    from attention_impls.backbone import BackboneSpec
    from attention_impls.spec import AttentionSpec
    from bench.metric import Metric
    from bench.task import Task

_ROOT = Path(__file__).parents[1]

DERIVED = (
    Column(
        name="throughput",
        title="Throughput",
        unit="token/s",
        better="higher",
        help="Tokens of all sequences of a call / latency.",
        derived=True,
        varies=True,
    ),
    Column(
        name="image_throughput",
        title="Images per second",
        unit="image/s",
        better="higher",
        help="Images of a call / latency, of one layer or of a whole network.",
        derived=True,
        varies=True,
    ),
    Column(
        name="flop_rate",
        title="FLOP rate",
        unit="flop/s",
        better="higher",
        help="FLOPs by formula / latency; with backward three times the forward's FLOPs.",
        derived=True,
        varies=True,
    ),
    Column(
        name="intensity",
        title="Arithmetic intensity",
        unit="flop/byte",
        better=None,
        help="FLOPs of a call / the least bytes that it must move: inputs, outputs, parameters.",
        derived=True,
        varies=False,
    ),
    Column(
        name="efficiency",
        title="Roofline efficiency",
        unit="fraction",
        better="higher",
        help=(
            "Least time that this machine needs for the FLOPs, the bytes and the call, by its own "
            "ceilings measured in the same run, / latency."
        ),
        derived=True,
        varies=True,
    ),
)
"""Quantities that follow from measured ones and are never stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Everything that the tree says about itself."""

    columns: tuple[Column, ...]
    variants: tuple[VariantEntry, ...]
    tasks: tuple[TaskEntry, ...]
    backbones: tuple[BackboneEntry, ...] = ()
    questions: tuple[AnalysisEntry, ...] = ()


def add_variants(files: Iterable[Path]) -> None:
    """Let the catalogue read variants from outside the tree, too.

    Raises:
        ValueError: a file that cannot be one of a variant.
    """
    registry = importlib.import_module("attention_impls.registry")
    for file in files:
        registry.add_variant_file(file)


def read_catalogue() -> Catalogue:
    """Read every variant, backbone, metric, task and analysis of the tree."""
    registry = importlib.import_module("attention_impls.registry")
    metrics = importlib.import_module("bench.metric").metrics()
    task = importlib.import_module("bench.task")
    analyses = importlib.import_module("bench.analysis")
    measured = (
        Column(
            name=m.name,
            title=m.title,
            unit=m.unit,
            better=m.better,
            help=m.help,
            derived=False,
            varies=m.every_round or _of_tasks_alone(m),
        )
        for m in metrics
    )
    return Catalogue(
        columns=(*measured, *DERIVED),
        variants=tuple(variant_entry(registry.load(name)) for name in registry.names()),
        backbones=tuple(
            backbone_entry(registry.load_backbone(id_)) for id_ in registry.backbones()
        ),
        tasks=tuple(
            TaskEntry(
                name=t.name,
                title=t.title,
                revision=t.revision,
                help=t.help,
                chance=t.chance,
                test_items=t.test_items,
                tokens=t.tokens,
                recipe_sha256=t.recipe_sha256,
                recipe=t.recipe_numbers,
                description=inspect.cleandoc(
                    _module_docstring(f"bench.tasks.{task.file_of(t.name)}")
                ),
                source=f"bench/tasks/{task.file_of(t.name)}.py",
                data=inspect.cleandoc(_module_docstring(_data_module(t, task.file_of(t.name)))),
                data_source=f"{_data_module(t, task.file_of(t.name)).replace('.', '/')}.py",
            )
            for t in task.tasks()
        ),
        questions=tuple(
            AnalysisEntry(
                name=a.name,
                title=a.title,
                question=a.question,
                claim=a.claim,
                paper_scale=a.paper_scale,
                revision=a.revision,
                description=inspect.cleandoc(_module_docstring(f"bench.analyses.{a.name}")),
                source=f"bench/analyses/{a.name}.py",
            )
            for a in map(analyses.analysis, analyses.analysis_names())
        ),
    )


def _module_docstring(name: str) -> str:
    return importlib.import_module(name).__doc__ or ""


def _data_module(of: "Task", file: str) -> str:
    """Return the module that reads or generates a task's examples."""
    reader = getattr(of.data, "func", of.data)
    module = str(reader.__module__)
    return module if module.startswith("bench.datasets.") else f"bench.tasks.{file}"


def _of_tasks_alone(metric: "Metric") -> bool:
    """Whether a metric belongs to trainings only: it differs from seed to seed."""
    task = Case(
        variant="any", backend="reference", level="model", stimulus=TaskRun(task="any", seed=0)
    )
    timed = replace(
        task,
        level="layer",
        stimulus=Workload(
            batch=1,
            batch_policy="one",
            grid=GridSize(height=1, width=1),
            heads=1,
            head_dim=1,
            dtype="float32",
            passes="forward",
        ),
    )
    return metric.applies(task, "cpu") and not metric.applies(timed, "cpu")


def backbone_entry(spec: "BackboneSpec") -> BackboneEntry:
    """Return the printable half of one whole network."""
    return BackboneEntry(
        id=spec.id,
        title=spec.title,
        family=spec.family,
        variant=spec.variant,
        paper=PaperEntry(**{f.name: getattr(spec.paper, f.name) for f in fields(PaperEntry)}),
        resolution_px=spec.resolution_px,
        parameters=spec.parameters(),
        macs=spec.flops() // 2,
        differences=spec.differences,
    )


def variant_entry(spec: "AttentionSpec") -> VariantEntry:
    """Return the printable half of one spec."""
    registry = importlib.import_module("attention_impls.registry")
    source = registry.source_file(spec.name)
    return VariantEntry(
        name=spec.name,
        title=spec.title,
        family=spec.family,
        paper=PaperEntry(**{f.name: getattr(spec.paper, f.name) for f in fields(PaperEntry)}),
        revision=spec.revision,
        formula=spec.formula,
        description=inspect.cleandoc(
            ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        ),
        deviations=spec.deviations,
        scaling=spec.scaling,
        options=asdict(spec.options),
        options_help=_field_docstrings(type(spec.options)),
        order=float(spec.order(spec.options)),
        traits=asdict(spec.traits),
        uncounted=_uncounted(spec),
        backends=tuple(_backend_entry(spec.name, b) for b in registry.backends(spec.name)),
        source=_in_repository(source),
        streams=streams_of(spec),
    )


def _backend_entry(variant: str, name: str) -> BackendEntry:
    registry = importlib.import_module("attention_impls.registry")
    if name == "reference":
        return BackendEntry(
            name=name,
            title="Reference",
            source=_in_repository(registry.source_file(variant)),
        )
    file = "compiled.py" if name == "compile" else f"backends/{variant}_{name}.py"
    return BackendEntry(
        name=name,
        title=registry.load_backend(variant, name).title,
        source=f"attention_impls/{file}",
    )


def _example_shape() -> Any:
    shapes = importlib.import_module("attention_impls.shapes")
    return shapes.AttentionShape(batch=1, grid=shapes.Grid(14, 14), heads=3, head_dim=64)


def _uncounted(spec: "AttentionSpec") -> str | None:
    return spec.uncounted(_example_shape(), spec.options)[1] if spec.uncounted else None


@cache
def streams_of(spec: "AttentionSpec") -> int:
    """Distinct tensors that the core reads: read off the layer, which knows what it projects."""
    return len(getattr(spec.build(_example_shape()), "streams", "x"))


def _field_docstrings(class_: type) -> dict[str, str]:
    """The string under each field of a dataclass, inherited fields included."""
    found: dict[str, str] = {}
    for base in reversed(class_.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in pairwise(body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str() as words)),
                ):
                    found[name] = inspect.cleandoc(words)
                case _:
                    pass
    return found


def _in_repository(path: Path) -> str:
    """Path below the repository's root; the bare name for a variant from outside the tree."""
    return path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else path.name
