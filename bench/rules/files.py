"""Rules about the files of results/: readable, portable, only ever added, by who measured them."""

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bench import strict_json
from bench.report import read_reports
from bench.reported import read_reported
from bench.rules.rule import Fault, ResultsUnderTest, RunUnderTest, TreeRule
from bench.schema import schema_text
from bench.submission import NOT_RUNS

LARGEST_RUN_BYTES = 8 * 2**20
"""The whole catalogue by the largest plan stays below half of this."""
MOST_NEW_RUNS = 8
"""Runs of one pull request that a person can look at."""
LONGEST_PATH = 180
"""Characters below results/; some systems end at 260 with everything above."""
_DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10)))
)
_NOT_PORTABLE = frozenset('<>:"|?*\\')


def _readable(results: ResultsUnderTest) -> Iterator[Fault]:
    for refusal in results.refusals:
        yield Fault(refusal.path, refusal.reason)
    for refused in read_reported(results.root / "reported")[1]:
        yield Fault(refused.path, refused.reason)
    for path, reason in read_reports(results.root)[1]:
        yield Fault(path, reason)


def _schema(results: ResultsUnderTest) -> Iterator[Fault]:
    path = results.root / "schema.json"
    if path.is_file() and path.read_bytes() != schema_text().encode():
        yield Fault(
            "schema.json", "is not what bench/model generates; run `python -m bench.schema`"
        )


def _append_only(results: ResultsUnderTest) -> Iterator[Fault]:
    history = results.history
    if history is None:
        return
    for name, told in history.rewritten.items():
        parts = PurePosixPath(name).parts
        if len(parts) == 3 and parts[0] not in NOT_RUNS:
            yield Fault(
                name,
                f"{told} since {history.base[:10]}: runs are only ever added; restore it with "
                f"`git -C {results.root.name} checkout {history.base[:10]} -- {name}` and answer "
                "it by another run",
            )
    published = {"/".join(path.split("/")[:2]) for path in history.known}
    for run in _new(results):
        if run.folder in published:
            yield Fault(run.folder, "files were added to a run that is published: add another run")


def _mixed(results: ResultsUnderTest) -> Iterator[Fault]:
    history, new = results.history, _new(results)
    if history is None or not new or not history.elsewhere:
        return
    yield Fault(
        new[0].folder,
        f"this branch adds {len(new)} runs and changes {len(history.elsewhere)} files outside of "
        f"results/ (the first: {history.elsewhere[0]}): allowed is one of both, so that results "
        "are judged by code that was reviewed before; split it",
    )


def _portable(results: ResultsUnderTest) -> Iterator[Fault]:
    spellings: dict[str, list[str]] = defaultdict(list)
    for path in _everything(results.root):
        name = path.relative_to(results.root).as_posix()
        spellings[unicodedata.normalize("NFC", name).casefold()].append(name)
        if reason := _not_portable(name):
            yield Fault(name, f"{reason}: not every system can hold such a file; rename it")
    for names in spellings.values():
        for name in names[1:]:
            yield Fault(
                name, f"differs from {names[0]} in case or Unicode form alone; remove one of them"
            )


def _not_portable(name: str) -> str | None:
    last = name.rpartition("/")[2]
    if last.split(".")[0].casefold() in _DEVICES:
        return f"{last} is the name of a device"
    if last.endswith((".", " ")):
        return "the name ends in a dot or space"
    if odd := sorted({c for c in last if c in _NOT_PORTABLE or not c.isprintable()}):
        return f"the name holds {', '.join(ascii(c) for c in odd)}"
    if len(name) > LONGEST_PATH:
        return f"the path has {len(name)} characters, allowed {LONGEST_PATH}"
    return None


def _plain(results: ResultsUnderTest) -> Iterator[Fault]:
    """What lies in folders of runs is refused by the reader itself."""
    for folder in NOT_RUNS:
        for path in _everything(results.root / folder):
            mode = path.lstat().st_mode
            name = path.relative_to(results.root).as_posix()
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                yield Fault(name, "is a link or device, allowed are plain files; copy the contents")
            elif stat.S_ISREG(mode) and mode & 0o111:
                yield Fault(name, "is executable; results are data: chmod -x")


def _layout(results: ResultsUnderTest) -> Iterator[Fault]:
    for run in results.runs:
        for name in ("run.json", *sorted(run.run.files)):
            data = (run.stored.folder / name).read_bytes()
            if data != strict_json.pretty(strict_json.parse(data)).encode():
                yield Fault(
                    f"{run.folder}/{name}",
                    "is not laid out as `attnbench run` writes it, so that changes cannot be read "
                    "line by line; `attnbench submit` lays out run.json, other files are as "
                    "they were measured",
                )


def _large(results: ResultsUnderTest) -> Iterator[Fault]:
    for run in results.runs:
        names = ("run.json", *run.run.files)
        size = sum((run.stored.folder / name).lstat().st_size for name in names)
        if size > LARGEST_RUN_BYTES:
            yield Fault(
                run.folder,
                f"{size:,} bytes, usual are up to {LARGEST_RUN_BYTES:,}: say in the pull request "
                "why it is so large",
            )
    new = _new(results)
    if results.history is not None and len(new) > MOST_NEW_RUNS:
        yield Fault(
            new[0].folder,
            f"this branch adds {len(new)} runs, usual are up to {MOST_NEW_RUNS}: split it",
        )


def _foreign(results: ResultsUnderTest) -> Iterator[Fault]:
    account = results.account
    if account is None:
        return
    for run in _new(results):
        submitter = run.run.submitted_by
        if submitter not in ("anonymous", account.lower()):
            yield Fault(
                f"{run.folder}/run.json",
                f"submitted_by is {submitter}, this is submitted by {account.lower()}: allowed is "
                "your own account or anonymous; who measured a run submits it",
            )


def _new(results: ResultsUnderTest) -> tuple[RunUnderTest, ...]:
    """Runs that the branch adds: all of them where there is no history."""
    history = results.history
    if history is None:
        return results.runs
    return tuple(run for run in results.runs if f"{run.folder}/run.json" not in history.known)


def _everything(folder: Path) -> Iterator[Path]:
    """Every file, folder and link below, links not followed."""
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in sorted((*folders, *files)):
            yield Path(parent) / name


RULES = (
    TreeRule(id="R101", severity="error", help="A file is not readable.", find=_readable),
    TreeRule(id="R102", severity="error", help="The JSON schema is stale.", find=_schema),
    TreeRule(id="R103", severity="error", help="History was rewritten.", find=_append_only),
    TreeRule(id="R104", severity="review", help="Results and code at once.", find=_mixed),
    TreeRule(id="R105", severity="error", help="A name for few systems.", find=_portable),
    TreeRule(id="R106", severity="error", help="Not a plain file.", find=_plain),
    TreeRule(id="R107", severity="error", help="Not as a run is written.", find=_layout),
    TreeRule(id="R108", severity="review", help="Unusually large.", find=_large),
    TreeRule(id="R109", severity="error", help="Somebody else's run.", find=_foreign),
)
