"""A results folder as large as the catalogue will be: invented variants, executions and tasks.

The width of every page is that of the full catalogue, whatever the number of machines: so a small
sample tests the weight of pages, and a large one the time and memory of a build.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sample_run import sample_environment, sample_header
from sample_site import Invented, cases_of, outcome_of, sample_columns, variant_entry

from bench.cases import image, sequence, task_cases, workload_case
from bench.catalogue import DERIVED, Catalogue
from bench.model import Case, Record, VariantRecords
from bench.submission import write_run
from bench.table import LeaderboardTable, TaskEntry
from bench.tabulation import load_table

VARIANTS = 60
TASKS = 15
FAMILIES = ("feature_map", "low_rank", "local", "gated")


def executions() -> tuple[Invented, ...]:
    """Return softmax three ways, and the others by reference and compiled."""
    found = [_invented("softmax", backend, 0) for backend in ("reference", "compile", "sdpa")]
    for number in range(1, VARIANTS):
        name = f"mechanism_{number:02d}"
        found += [_invented(name, backend, number) for backend in ("reference", "compile")]
    return tuple(found)


def _invented(variant: str, backend: str, number: int) -> Invented:
    return Invented(
        variant=variant,
        backend=backend,
        family="softmax" if variant == "softmax" else FAMILIES[number % len(FAMILIES)],
        quadratic=number % 7 == 0,
        speed=0.2 + 0.007 * (number * 37 % 61) + (0.05 if backend != "reference" else 0.0),
        core_width=48 + 5 * (number * 13 % 67),
        stores_scores=number % 7 == 0 and backend == "reference",
        accuracy=0.9 + 0.001 * (number * 29 % 63),
    )


def scale_catalogue() -> Catalogue:
    """Entries for everything below."""
    first = {e.variant: e for e in reversed(executions())}
    return Catalogue(
        columns=(*sample_columns(), *DERIVED),
        variants=tuple(variant_entry(first[name]) for name in sorted(first)),
        tasks=tuple(
            TaskEntry(
                name=f"task_{n:02d}", title=f"Task {n} (synthetic)", revision=1,
                help="A synthetic task.", chance=0.1, test_items=360, tokens=16,
                recipe_sha256="0" * 64, recipe={},
            )
            for n in range(TASKS)
        ),
    )  # fmt: skip


def write_scale_sample(root: Path, *, machines: int, whole: bool) -> Path:
    """Write runs that are as wide as the full catalogue.

    Args:
        root: the results folder.
        machines: how many.
        whole: every context; False: few contexts and sizes, each as wide as with all.
    """
    for number in range(machines):
        hardware_id = f"scale-{number:02d}-cpu"
        header = replace(
            sample_header(created="2026-01-02T03:04:05Z", hardware_id=hardware_id),
            environment=replace(
                sample_environment(hardware_id), device_name=f"Scale CPU {number} (synthetic)"
            ),
        )
        write_run(root, header, _records(hardware_id, 1.0 + 0.3 * number, number, whole=whole))
    return root


def _records(
    hardware_id: str, slowness: float, number: int, *, whole: bool
) -> Iterator[VariantRecords]:
    grouped: dict[str, list[Record]] = {}
    for invented in executions():
        for case in _cases(invented, whole=whole, tasks=TASKS if number == 0 else 0):
            outcome = outcome_of(case, invented, slowness, hardware_id)
            record = Record(case=case, variant_revision=2, outcome=outcome)
            grouped.setdefault(invented.variant, []).append(record)
    for variant, records in grouped.items():
        yield VariantRecords(
            run_id="sample",
            variant=variant,
            source_sha256=hashlib.sha256(variant.encode()).hexdigest(),
            records=tuple({r.case.id: r for r in records}.values()),
        )


def _cases(invented: Invented, *, whole: bool, tasks: int) -> Iterator[Case]:
    name, backend = invented.variant, invented.backend
    if whole:
        yield from (c for c in cases_of(invented, few=False) if c.stimulus.kind != "task")
    else:
        for side in (224, 384, 512, 768, 1024, 1536, 2048):
            yield workload_case(name, backend, image(side), dtype="float32", passes="forward")
        for tokens in (256, 4096, 65_536):
            yield workload_case(name, backend, sequence(tokens), dtype="float32", passes="forward")
    if backend == "reference":
        for task in range(tasks if whole else min(tasks, 3)):
            yield from task_cases(name, f"task_{task:02d}", seeds=3)


def scale_table(root: Path) -> LeaderboardTable:
    """Return the table of a folder written by `write_scale_sample`."""
    return load_table(root, scale_catalogue())
