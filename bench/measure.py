"""One command from plan to results folders: the path every measurement takes.

devices -> journals -> visits -> records -> results/<hardware_id>/<run_id>/
"""

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import merge, submission
from bench.description import Code
from bench.executor import Commission, Progress, executor
from bench.journal import Journal, JournalError
from bench.journal_lines import Header
from bench.model import Ceiling, Conditions, DeviceKind, Plan, Record, Run, VariantRecords
from bench.sweep import Sweep
from bench.together import refuse_unfit

JOURNALS = Path(".attnbench")
"""Where unfinished runs are kept, below the folder that holds results/."""


class NothingToResumeError(JournalError):
    """`--resume` was asked for, but no unfinished run fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asks for."""

    plan: Plan
    device: DeviceKind
    threads: int | None
    """Threads of one device; None: its CPUs."""
    results: Path
    resume: bool
    only: str | None
    submitted_by: str
    executor: str
    together: int = 1
    """Devices of one node that train a network together."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the executor."""
    or_anew: bool = False
    """Begin a new run where `resume` finds none to go on with."""
    minutes: float | None = None
    """No visit begins later than this after the start; None: the whole plan is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that is in results/."""

    folder: Path
    run: Run
    records: tuple[Record, ...]
    conditions: Conditions


def measure(order: Order, progress: Progress) -> tuple[Finished, ...]:
    """Measure, and write a run for every kind of device that took part.

    Raises:
        NothingToResumeError: `resume` without an unfinished run of this plan on these devices.
        JournalError: the journal cannot be written, or belongs to other code or hardware.
        PoolError: there are no devices, or all were lost.
        KeyboardInterrupt: after the running cases were stopped; the journals can be resumed.
        TimeIsUp: the minutes of the order are over; the journals can be resumed.
        ValueError: the plan has cases that cannot use several devices.
    """
    refuse_unfit(order.plan, order.together)
    until_s = None if order.minutes is None else time.monotonic() + 60 * order.minutes
    commission = Commission(
        plan=order.plan,
        device=order.device,
        threads=order.threads,
        only=order.only,
        together=order.together,
        resume=order.resume,
        options=order.options,
    )
    require_writable(order.results)
    with Journals(order) as journals:
        sweep = Sweep(order.plan, order.device, journals.of, progress, until_s=until_s)
        with executor(order.executor).pool(commission, progress) as pool:
            done = sweep.go(pool)
        return tuple(write(journal, order.results, order.submitted_by) for journal in done)


def require_writable(results: Path) -> None:
    """Refuse, before anything is measured, folders that could not be written at the end.

    Raises:
        JournalError: names the folder, the reason and what to do.
    """
    for folder in (results.parent / JOURNALS, results):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise JournalError(
                f"{folder} cannot be written: {error.strerror}; make it writable, or choose "
                "another folder with --results DIR"
            ) from error


class Journals:
    """The journals of one command, one for each kind of device; closed together."""

    def __init__(self, order: Order) -> None:
        """Open none yet, but refuse a resume where there is nothing to go on with.

        Raises:
            NothingToResumeError: no unfinished run has this plan.
        """
        self._order = order
        self._folder = order.results.parent / JOURNALS
        self._code = Code.here(order.plan)
        self._open: list[Journal] = []
        self._created: str | None = None
        if order.resume and not order.or_anew and not unfinished(self._folder.parent):
            raise NothingToResumeError(self._nothing([]))

    def __enter__(self) -> "Journals":
        return self

    def __exit__(self, *_error: object) -> None:
        for journal in self._open:
            journal.close()

    def of(self, header: Header) -> Journal:
        """Return the journal for devices of this header: new, or one to go on with.

        Raises:
            JournalError: the device has other code; the disk is full.
            NothingToResumeError: nothing unfinished fits the device.
        """
        differing = self._code.differences(Code.of(header))
        if header.plan.digest != self._order.plan.digest:
            differing.append(
                f"plan is {header.plan.name} {header.plan.digest[:12]}, "
                f"not {self._order.plan.name} {self._order.plan.digest[:12]}"
            )
        if differing:
            raise JournalError(f"other code: {'; '.join(differing)}")
        journal = self._resumed(header) if self._order.resume else self._fresh(header)
        self._open.append(journal)
        return journal

    def _fresh(self, header: Header) -> Journal:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._created = self._created or header.created
        stamp = self._created.replace("-", "").replace(":", "").lower()
        name = f"{stamp}-{header.plan.name}-{header.environment.hardware_id}.jsonl"
        return Journal.create(self._folder / name, header)

    def _resumed(self, header: Header) -> Journal:
        reasons: list[str] = []
        # on a cluster a kind of device may join that had not joined when the run was stopped
        newcomer = bool(self._open)
        for path in unfinished(self._folder.parent):
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
                newcomer = newcomer or self._is_of_this_run(journal.header, header)
                continue
            return journal
        if self._order.or_anew or (newcomer and self._order.executor != "local"):
            return self._fresh(header)
        raise NothingToResumeError(self._nothing(reasons))

    def _is_of_this_run(self, stopped: Header, header: Header) -> bool:
        """Whether only the hardware differs from a run that was stopped."""
        return (
            stopped.environment.hardware_id != header.environment.hardware_id
            and stopped.plan.digest == header.plan.digest
            and not self._code.differences(Code.of(stopped))
        )

    def _nothing(self, reasons: list[str]) -> str:
        listed = "".join(f"\n  {reason}" for reason in reasons)
        return (
            f"no unfinished run in {self._folder} can be resumed with plan "
            f"{self._order.plan.name}; run without --resume to start anew.{listed}"
        )


def unfinished(folder: Path) -> tuple[Path, ...]:
    """Return the journals of runs that did not end, newest first."""
    return tuple(sorted((folder / JOURNALS).glob("*.jsonl"), reverse=True))


def write(journal: Journal, results: Path, submitted_by: str) -> Finished:
    """Write the run of a journal that holds the whole plan, and put the journal away.

    Raises:
        JournalError: the results folder cannot be written; the journal stays and can be resumed.
    """
    try:
        finished = _written(journal, results, submitted_by)
    except OSError as error:
        raise JournalError(
            f"the run could not be written below {results}: {error.strerror}; nothing measured is "
            "lost: free space or make the folder writable, then repeat the command with --resume"
        ) from error
    done = journal.path.parent / "finished"
    done.mkdir(exist_ok=True)
    journal.path.rename(done / journal.path.name)
    # every training of the run is in its record now
    shutil.rmtree(journal.path.with_suffix(""), ignore_errors=True)
    return finished


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


def _written(journal: Journal, results: Path, submitted_by: str) -> Finished:
    run, files = run_of(journal, submitted_by)
    try:
        path = submission.write_run(results, run, files)
    except submission.RunExistsError:
        # the command was killed between writing the run and putting its journal away
        named, _ = submission.identified(run, files)
        path = results / named.environment.hardware_id / named.run_id
    return Finished(
        folder=path,
        run=submission.read_run(path).run,
        records=merge.records(journal.header.plan, journal),
        conditions=run.conditions,
    )


def run_of(journal: Journal, submitted_by: str) -> tuple[Run, tuple[VariantRecords, ...]]:
    """Return what a finished journal holds as a run to be written, header and files."""
    header = journal.header
    plan = header.plan
    ceilings = header.ceilings
    for arrival in journal.arrivals:
        ceilings = joined(ceilings, arrival.ceilings)
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
