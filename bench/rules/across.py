"""Rules about results/ as a whole: readable, append-only, generated schema, no copies."""

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.report import read_reports
from bench.reported import read_reported
from bench.rules.rule import Fault, RecordUnderTest, ResultsUnderTest, RunUnderTest, TreeRule
from bench.rules.statistics import timed
from bench.schema import schema_text
from bench.submission import NOT_RUNS

_LEAST_COPIED = 5
"""Samples from which equal rounds cannot be chance."""
_OUTLIER = 1.5


def _readable(results: ResultsUnderTest) -> Iterator[Fault]:
    for refusal in results.refusals:
        yield Fault(refusal.path, refusal.reason)
    for refused in read_reported(results.root / "reported")[1]:
        yield Fault(refused.path, refused.reason)
    for path, reason in read_reports(results.root)[1]:
        yield Fault(path, reason)


def _schema(results: ResultsUnderTest) -> Iterator[Fault]:
    path = results.root / "schema.json"
    if path.is_file() and path.read_text(encoding="utf-8") != schema_text():
        yield Fault(
            "schema.json", "is not what bench/model.py generates; run `python -m bench.schema`"
        )


def _append_only(results: ResultsUnderTest) -> Iterator[Fault]:
    base = _merge_base(results.root)
    if base is None:
        return
    done = _git(
        results.root, "diff", "--name-status", "--no-renames", "--relative", base, "--", "."
    )
    for line in (done or "").splitlines():
        status, _, name = line.partition("\t")
        parts = Path(name).parts
        if status != "A" and len(parts) == 3 and parts[0] not in NOT_RUNS:
            told = "deleted" if status == "D" else "changed"
            yield Fault(name, f"{told} since {base[:10]}: runs are only ever added")


def _merge_base(root: Path) -> str | None:
    """Commit that this checkout branched off from the main branch; None outside of git."""
    for branch in ("origin/main", "main", "origin/master", "master"):
        if base := _git(root, "merge-base", "HEAD", branch):
            return base.strip()
    return None


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


def _copied(results: ResultsUnderTest) -> Iterator[Fault]:
    seen: dict[tuple[float, ...], tuple[RunUnderTest, RecordUnderTest]] = {}
    for run in results.runs:
        for one in run.records:
            for name, measured in timed(one):
                for samples in measured.rounds:
                    if len(samples) < _LEAST_COPIED or len(set(samples)) == 1:
                        continue
                    key = tuple(map(float, samples))
                    other = seen.setdefault(key, (run, one))
                    if other[1] is not one:
                        yield _placed(
                            run,
                            one,
                            f"a round of {name} is, sample by sample, that of "
                            f"{other[1].case.id} in {other[0].run.run_id}",
                        )


def _outliers(results: ResultsUnderTest) -> Iterator[Fault]:
    found: dict[tuple[str, str, int], list[tuple[float, RunUnderTest, RecordUnderTest]]]
    found = defaultdict(list)
    for run in results.runs:
        for one in run.records:
            if latency := one.summary("latency"):
                key = (
                    run.run.environment.hardware_id,
                    one.case.id,
                    one.record.variant_revision,
                )
                found[key].append((latency.value, run, one))
    for several in found.values():
        for value, run, one in several[1:]:
            others = median(v for v, _, other in several if other is not one)
            if not 1 / _OUTLIER < value / others < _OUTLIER:
                yield _placed(
                    run, one, f"latency {value:.3g} s, other runs of this machine {others:.3g} s"
                )


def _placed(run: RunUnderTest, one: RecordUnderTest, message: str) -> Fault:
    folder = f"{run.run.environment.hardware_id}/{run.run.run_id}"
    return Fault(f"{folder}/{one.file}", one.fault(message).message)


RULES = (
    TreeRule(id="R101", severity="error", help="A file is not readable.", find=_readable),
    TreeRule(id="R102", severity="error", help="The JSON schema is stale.", find=_schema),
    TreeRule(id="R103", severity="error", help="History was rewritten.", find=_append_only),
    TreeRule(id="R701", severity="error", help="Copied samples.", find=_copied),
    TreeRule(id="R702", severity="flag", help="Far from other runs.", find=_outliers),
)
