"""Fuzzes the reader, the rules and the pages with mutants of valid runs: `nox -s fuzz`.

A mutant that keeps the digests must be refused or be the very same run. One that is signed again,
as a forger can, must be refused, be the very same run, be found by a rule, or be plausible: another
claim within what the machine can do, which only a reproduction can tell from the truth. Nothing may
crash or hang, and no byte of an accepted mutant may reach a page unescaped.
"""

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from hostile_pages import faults_of_site
from mutants import Mutant, Mutator, documents_of
from sample_run import noise_of, sample_header, sample_records

from bench.catalogue import Catalogue
from bench.environment import hardware_id
from bench.model import Record
from bench.rules import check_run
from bench.submission import StoredRun, read_results, write_run
from bench.tabulation import load_table

PATIENCE_S = 20.0
"""CPU time after which a mutant counts as a hang; a usual one takes hundredths."""
OF_NO_PLAN = frozenset({"R312"})
"""What the rules find in the sample, changed or not: it is of no plan."""
KEPT = 60
"""Accepted mutants whose pages are looked at: a random sample of all."""
EXAMPLES = 10
"""Plausible mutants that are printed."""


class HangError(Exception):
    """A mutant took longer than `PATIENCE_S`."""


@dataclass
class Figures:
    """What became of the mutants."""

    mutants: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    """Findings in signed mutants that the reader accepted, one a mutant and rule."""
    failures: list[str] = field(default_factory=list)
    """Crashes, hangs, and changes that nobody noticed."""
    changed: Counter[str] = field(default_factory=Counter)
    """Fields of the mutants that changed one value."""
    plausible: dict[str, list[str]] = field(default_factory=dict)
    """How those fields were changed where only a reproduction can tell it from the truth."""
    examples: list[tuple[str, ...]] = field(default_factory=list)
    """The first mutants that only a reproduction can tell from the truth."""
    slowest_s: float = 0.0
    kept: list[Path] = field(default_factory=list)
    pages: int = 0

    def __str__(self) -> str:
        lines = [f"{self.mutants:,} mutants"]
        lines += [f"  {n:>9,}  {ending}" for ending, n in self.endings.most_common()]
        lines.append(f"slowest {self.slowest_s:.2f} s of CPU time")
        found = ", ".join(f"{rule} {n}" for rule, n in self.rules.most_common())
        lines.append(f"rules that found something: {found}")
        if self.pages:
            lines.append(f"{len(self.kept)} accepted mutants on {self.pages:,} files of a site")
        lines += [f"  plausible: {'; '.join(how)}" for how in self.examples]
        lines.append(f"{len(self.failures)} failures")
        return "\n".join([*lines, *self.failures[:50]])

    def by_field(self) -> str:
        """A line for each field whose change was found plausible, with an example of each."""
        return "\n".join(
            f"{len(how):>6} of {self.changed[name]:>5}  {name}: {how[0].partition(': ')[2]}"
            for name, how in sorted(self.plausible.items())
        )


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    def stop(_signal: int, _frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def valid_run(root: Path, variant: str) -> StoredRun:
    """Write a small valid run of one variant, every kind of record once, and read it again."""
    (file,) = sample_records((variant,))
    by_kind: dict[object, Record] = {}
    for record in file.records:
        stimulus = record.case.stimulus
        seed = getattr(stimulus, "seed", None)
        passes = getattr(stimulus, "passes", None)
        if variant == "softmax" and seed is not None:
            continue  # trainings are mutated in the other runs
        by_kind[record.outcome.kind, stimulus.kind, passes, seed] = record
    header = sample_header()
    machine = header.environment
    slug = hardware_id("cpu", machine.device_name, machine.cpu_count, machine.device_memory_bytes)
    header = replace(header, environment=replace(machine, hardware_id=slug))
    header = noise_of(header, (variant,))
    held = {r.case.id for r in by_kind.values()}
    noise = tuple(pair for pair in header.conditions.noise if pair.case.id in held)
    header = replace(header, conditions=replace(header.conditions, noise=noise))
    records = tuple(sorted(by_kind.values(), key=lambda r: r.case.id))
    write_run(root, header, [replace(file, records=records)])
    (stored,), _ = read_results(root)
    if found := {f.rule for f in check_run(stored)} - OF_NO_PLAN:
        raise RuntimeError(f"the run that is mutated is not good: {sorted(found)}")
    return stored


def fuzz(
    original: StoredRun, mutants: int, seed: int, keep: Path, *, only_signed: bool = False
) -> Figures:
    """Make and judge mutants of `original`; a sample of the accepted ones is moved to `keep`.

    Args:
        original: a valid run.
        mutants: how many.
        seed: another one makes other mutants.
        keep: a folder.
        only_signed: one value of each is changed, and all are signed again.
    """
    figures = Figures()
    machine = original.run.environment.hardware_id
    mutator = Mutator(documents_of(original.folder), machine, seed, only_signed=only_signed)
    chosen = random.Random(seed)
    for number in range(mutants):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            mutant = mutator.write(root)
            started = time.process_time()
            try:
                with _patience():
                    ending, accepted = judge(original, mutant, figures)
            except HangError:
                ending, accepted = "HANG", False
            except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
                ending, accepted = "CRASH", False
                figures.failures.append(traceback.format_exc(limit=-4))
            figures.slowest_s = max(figures.slowest_s, time.process_time() - started)
            figures.mutants += 1
            figures.endings[ending] += 1
            if ending.isupper():
                figures.failures.append(f"{ending}: seed {seed}, {number}: {mutant.how}")
            figures.changed.update(mutant.fields)
            if "plausible" in ending and len(figures.examples) < EXAMPLES:
                figures.examples.append(mutant.how)
            if "plausible" in ending and mutant.fields:
                figures.plausible.setdefault(mutant.fields[0], []).append(mutant.how[0])
            if accepted:
                _sample(figures, root, keep, chosen)
    return figures


def judge(original: StoredRun, mutant: Mutant, figures: Figures) -> tuple[str, bool]:
    """What became of a mutant, and whether it is another run that was accepted."""
    stored, refusals = read_results(mutant.root)
    if any(not r.reason or len(r.reason) > 2000 or len(r.path) > 2000 for r in refusals):
        return "A REFUSAL WITHOUT BOUNDS", False
    if not stored:
        return ("refused" if refusals else "GONE, AND SAID NOWHERE"), False
    (one,) = stored
    same = one.run == original.run and one.files == original.files
    if not mutant.signed:
        if same:
            return "the very same run" + (", beside a refused file" if refusals else ""), False
        return "CHANGED AND ACCEPTED", False
    content = replace(one.run, run_id=original.run.run_id, files=original.run.files)
    files = tuple(replace(f, run_id=original.run.run_id) for f in one.files)
    if content == original.run and files == original.files:
        return "signed again: the very same run", False
    found = {(f.severity, f.rule) for f in check_run(one)}
    figures.rules.update(sorted(rule for _, rule in found))
    for severity in ("error", "review", "flag"):
        mine = {rule for level, rule in found if level == severity}
        if mine - OF_NO_PLAN:
            return f"signed again: found by a rule of severity {severity}", True
    return "signed again: plausible", True


def _sample(figures: Figures, root: Path, keep: Path, chosen: random.Random) -> None:
    """Keep the run with the probability that makes all accepted ones equally likely."""
    (folder,) = (p for p in root.glob("*/*") if p.is_dir())
    seen = sum(
        n for ending, n in figures.endings.items() if "rule" in ending or "plausible" in ending
    )
    place = len(figures.kept) if len(figures.kept) < KEPT else chosen.randrange(max(seen, 1))
    if place >= KEPT:
        return
    target = keep / folder.parent.name / folder.name
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, target)
    if place == len(figures.kept):
        figures.kept.append(target)
    else:
        shutil.rmtree(figures.kept[place])
        figures.kept[place] = target


def look_at_pages(figures: Figures, keep: Path, out: Path, catalogue: Catalogue | None) -> None:
    """Build the site of the kept mutants and note every byte that is not escaped."""
    from leaderboard.build import build

    try:
        figures.pages = len(build(load_table(keep, catalogue, judge=True), out).files)
    except Exception:  # noqa: BLE001 - whatever it is, a stranger's run must not stop the site
        figures.failures.append(f"THE SITE CRASHED\n{traceback.format_exc(limit=-6)}")
    else:
        figures.failures += [f"PAGE {fault}" for fault in faults_of_site(out)]


def main(arguments: list[str] | None = None) -> int:
    """Run the fuzzer; return the exit status."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="another one makes other mutants")
    parser.add_argument("--variants", nargs="+", default=["softmax", "inline"])
    told = "change one value of each, sign all, list the fields that pass"
    parser.add_argument("--fields", action="store_true", help=told)
    chosen = parser.parse_args(arguments)
    status = 0
    for number, variant in enumerate(chosen.variants):
        with tempfile.TemporaryDirectory() as folder:
            root, keep = Path(folder) / "valid", Path(folder) / "kept"
            keep.mkdir()
            original = valid_run(root, variant)
            share = chosen.mutants // len(chosen.variants)
            figures = fuzz(
                original, share, chosen.seed * 1000 + number, keep, only_signed=chosen.fields
            )
            look_at_pages(figures, keep, Path(folder) / "site", None)
            sys.stdout.write(f"{variant}, seed {chosen.seed}: {figures}\n")
            if chosen.fields:
                sys.stdout.write(f"{figures.by_field()}\n")
            sys.stdout.flush()
            status |= bool(figures.failures)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
