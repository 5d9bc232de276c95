"""Runs an analysis and writes its report: the way from a question to results/analyses/."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from attention_impls.registry import load
from bench import settings
from bench.analysis import Analysis, Study
from bench.checkout import checkout
from bench.environment import environment
from bench.measure import JOURNALS
from bench.model import DeviceKind
from bench.report import AnalysisReport, write_report

TRAINED = "trained"
"""Folder of trained networks, beside the journals."""


def analysed(
    analysis: Analysis,
    results: Path,
    *,
    device: DeviceKind,
    variants: tuple[str, ...],
    task: str,
    seeds: tuple[int, ...],
    threads: int,
    note: Callable[[str], None],
) -> tuple[Path, AnalysisReport]:
    """Run `analysis` and write its report below the results folder.

    Args:
        analysis: the question.
        results: the results folder; trained networks are kept beside it.
        device: where networks are trained and looked into.
        variants: instead of the analysis's own; empty for those.
        task: on which networks are trained.
        seeds: of the trainings.
        threads: for torch.
        note: told what is going on.

    Raises:
        UnknownName: a variant or task that is not there.
        ValueError: the analysis has nothing to look at.
    """
    settings.apply(device, threads)
    chosen = variants or analysis.variants
    for name in chosen:
        load(name)
    study = Study(
        variants=chosen,
        seeds=seeds,
        device=device,
        task=task,
        folder=results.parent / JOURNALS / TRAINED,
        note=note,
    )
    start = time.monotonic()
    found = analysis.run(study)
    conclusion = analysis.conclude(found.quantities)
    code = checkout()
    report = AnalysisReport(
        analysis=analysis.name,
        revision=analysis.revision,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        hardware_id=environment(device, threads).hardware_id,
        commit=code.commit,
        dirty=code.dirty,
        torch=str(torch.__version__),
        wall_s=round(time.monotonic() - start, 1),
        claim=analysis.claim,
        finding=conclusion.finding,
        agrees=conclusion.agrees,
        networks=tuple(study.networks),
        quantities=found.quantities,
        figures=found.figures,
    )
    return write_report(results, report), report
