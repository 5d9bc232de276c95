"""One run from plan to results folder: the path every measurement takes.

machine -> journal -> executor -> records -> results/<hardware_id>/<run_id>/
"""

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from attention_impls.registry import outside_files
from bench import launch, merge, submission
from bench.checkout import checkout
from bench.executor import Progress, executor
from bench.journal import Header, Journal, JournalError, describe_tasks, describe_variants
from bench.model import Ceiling, Conditions, DeviceKind, Plan, Record, Run, VariantRecords

JOURNALS = Path(".attnbench")
"""Where unfinished runs are kept, below the folder that holds results/."""


class NothingToResumeError(RuntimeError):
    """`--resume` was asked for, but no unfinished run fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asks for."""

    plan: Plan
    device: DeviceKind
    threads: int
    results: Path
    resume: bool
    only: str | None
    submitted_by: str
    executor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that is in results/."""

    folder: Path
    run: Run
    records: tuple[Record, ...]
    conditions: Conditions


def measure(order: Order, progress: Progress) -> Finished:
    """Measure, and write the run.

    Raises:
        NothingToResumeError: `resume` without an unfinished run of this plan on this machine.
        JournalError: the journal cannot be written, or belongs to other code or hardware.
        KeyboardInterrupt: after the running case was stopped; the journal can be resumed.
    """
    header = described(order.plan, order.device, order.threads, order.only, progress)
    folder = order.results.parent / JOURNALS
    with _resumed(folder, header) if order.resume else _fresh(folder, header) as journal:
        executor(order.executor).run(order.plan, journal, order.device, progress)
        progress.note("measuring the machine's own limits again")
        _, later = launch.measure_machine(order.device, order.threads)
        finished = _written(order, journal, joined(journal.header.ceilings, later))
        journal.path.rename(_done(journal.path))
        # every training of the run is in its record now
        shutil.rmtree(journal.path.with_suffix(""), ignore_errors=True)
    return finished


def described(
    plan: Plan, device: DeviceKind, threads: int, only: str | None, progress: Progress
) -> Header:
    """Read the machine, measure its limits, and say what is about to run."""
    progress.note("measuring the machine's own limits")
    environment, ceilings = launch.measure_machine(device, threads)
    code = checkout()
    return Header(
        plan=plan,
        environment=environment,
        ceilings=ceilings,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        suite_version=code.version,
        commit=code.commit,
        dirty=code.dirty or bool(outside_files()),
        only=only,
        variants=describe_variants(plan),
        tasks=describe_tasks(plan),
        variant_files=tuple(str(path) for path in outside_files()),
    )


def unfinished(folder: Path) -> tuple[Path, ...]:
    """Return the journals of runs that did not end, newest first."""
    return tuple(sorted((folder / JOURNALS).glob("*.jsonl"), reverse=True))


def _fresh(folder: Path, header: Header) -> Journal:
    folder.mkdir(parents=True, exist_ok=True)
    stamp = header.created.replace("-", "").replace(":", "").lower()
    return Journal.create(folder / f"{stamp}-{header.plan.name}.jsonl", header)


def _resumed(folder: Path, header: Header) -> Journal:
    reasons: list[str] = []
    for path in unfinished(folder.parent):
        try:
            journal = Journal.open(path)
        except JournalError as error:
            reasons.append(f"{path.name}: {error}")
            continue
        try:
            journal.check_resumable(header)
        except JournalError as error:
            journal.close()
            reasons.append(f"{path.name}: {error}")
            continue
        return journal
    listed = "".join(f"\n  {reason}" for reason in reasons)
    raise NothingToResumeError(
        f"no unfinished run in {folder} can be resumed with plan {header.plan.name}; "
        f"run without --resume to start anew.{listed}"
    )


def _done(path: Path) -> Path:
    finished = path.parent / "finished"
    finished.mkdir(exist_ok=True)
    return finished / path.name


def joined(first: tuple[Ceiling, ...], later: tuple[Ceiling, ...]) -> tuple[Ceiling, ...]:
    """Add the samples of `later` to each ceiling of `first`.

    A limit is the best of its samples. Those of one moment can all be disturbed, and calls timed
    later would then beat the limit.

    Raises:
        ValueError: the two do not measure the same.
    """
    if [(c.name, c.unit) for c in first] != [(c.name, c.unit) for c in later]:
        raise ValueError(
            f"ceilings {[c.name for c in first]} cannot be joined with {[c.name for c in later]}"
        )
    return tuple(
        replace(a, samples=a.samples + b.samples) for a, b in zip(first, later, strict=True)
    )


def _written(order: Order, journal: Journal, ceilings: tuple[Ceiling, ...]) -> Finished:
    run, files = run_of(order.plan, journal, ceilings, order.submitted_by)
    path = submission.write_run(order.results, run, files)
    return Finished(
        folder=path,
        run=submission.read_run(path).run,
        records=merge.records(order.plan, journal),
        conditions=run.conditions,
    )


def run_of(
    plan: Plan, journal: Journal, ceilings: tuple[Ceiling, ...], submitted_by: str
) -> tuple[Run, tuple[VariantRecords, ...]]:
    """Return what a finished journal holds as a run to be written, header and files."""
    header = journal.header
    records = merge.records(plan, journal)
    run = Run(
        run_id="not-yet-known",
        created=header.created,
        submitted_by=submitted_by,
        suite_version=header.suite_version,
        commit=header.commit,
        dirty=header.dirty,
        plan=plan.name,
        plan_digest=plan.digest,
        only=header.only,
        protocol=plan.protocol,
        environment=header.environment,
        ceilings=ceilings,
        conditions=merge.conditions(plan, journal),
        files={},
    )
    files = tuple(
        VariantRecords(
            run_id="not-yet-known",
            variant=variant,
            source_sha256=source.source_sha256,
            records=tuple(r for r in records if r.case.variant == variant),
        )
        for variant, source in header.variants.items()
        if any(r.case.variant == variant for r in records)
    )
    return run, files
