"""results/ and the catalogue -> the table that pages see. Importing this imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import strict_json
from bench.catalogue import Catalogue, read_catalogue
from bench.model import Measured, Ok, VariantRecords, adapter
from bench.report import read_reports
from bench.reported import read_reported
from bench.submission import StoredRun, read_results
from bench.table import LeaderboardTable, MachineEntry, Recorded, Refused, RunEntry
from bench.tidy import frames, run_entry
from bench.tier import Trust
from bench.upgrades import upgraded


def load_table(
    root: Path, catalogue: Catalogue | None = None, *, judge: bool = False
) -> LeaderboardTable:
    """Read everything below the results folder `root` into one table.

    Args:
        root: the results folder.
        catalogue: what the tree says about itself; None reads it, which imports torch.
        judge: apply the rules of `attnbench check` and compute how far each row can be trusted.
    """
    known = catalogue or read_catalogue()
    stored, refusals = read_results(root)
    trusted: Mapping[tuple[str, str], Trust] | None = None
    if judge:
        from bench.trust import judged  # noqa: PLC0415 - the rules know torch

        trusted = judged(root, stored, refusals)
    rows, history = frames(stored, known, trusted)
    reported, bad_reports = read_reported(root / "reported")
    analyses, bad_analyses = read_reports(root)
    newest_first = tuple(run_entry(one) for one in reversed(stored))
    return LeaderboardTable(
        rows=rows,
        history=history,
        columns=known.columns,
        variants=known.variants,
        machines=_machines(newest_first),
        runs=newest_first,
        tasks=known.tasks,
        backbones=known.backbones,
        questions=known.questions,
        reported=reported,
        analyses=analyses,
        refused=(
            *(Refused(path=r.path, reason=r.reason) for r in refusals),
            *bad_reports,
            *(Refused(path=path, reason=reason) for path, reason in bad_analyses),
            *_unknown_metrics(stored, {column.name for column in known.columns}),
        ),
        root=root,
        trust=trusted,
    )


def recorded(root: Path, folder: str, variant: str) -> Mapping[str, Recorded]:
    """Read what the accepted run in `folder` stored about the cases of `variant`, by case id.

    Args:
        root: the results folder of the table.
        folder: of the run, see `RunEntry.folder`.
        variant: names the file.

    Raises:
        OSError: the file is not there any more.
    """
    document: Any = strict_json.parse((root / folder / f"{variant}.json").read_bytes())
    file: VariantRecords = adapter(VariantRecords).validate_json(
        strict_json.canonical(upgraded(document))
    )
    found: dict[str, Recorded] = {}
    for record in file.records:
        outcome = record.outcome
        measured = outcome.measurements if isinstance(outcome, Ok) else ()
        found[record.case.id] = Recorded(
            rounds={m.metric: m.rounds for m in measured if isinstance(m, Measured)},
            checked=outcome.checked if isinstance(outcome, Ok) else None,
            training=outcome.training if isinstance(outcome, Ok) else None,
        )
    return found


def _machines(newest_first: tuple[RunEntry, ...]) -> tuple[MachineEntry, ...]:
    runs: dict[str, list[RunEntry]] = {}
    for entry in newest_first:
        runs.setdefault(entry.run.environment.hardware_id, []).append(entry)
    return tuple(
        MachineEntry(
            hardware_id=hardware_id,
            environment=entries[0].run.environment,
            run_ids=tuple(entry.run.run_id for entry in entries),
        )
        for hardware_id, entries in sorted(runs.items())
    )


def _unknown_metrics(stored: Sequence[StoredRun], known: set[str]) -> list[Refused]:
    found: list[Refused] = []
    for one in stored:
        for file in one.files:
            outcomes = (record.outcome for record in file.records)
            metrics = {m.metric for o in outcomes if isinstance(o, Ok) for m in o.measurements}
            found += [
                Refused(
                    path=f"{one.folder.parent.name}/{one.folder.name}/{file.variant}.json",
                    reason=f"metric {name!r} is not in the tree: its numbers are not shown",
                )
                for name in sorted(metrics - known)
            ]
    return found
