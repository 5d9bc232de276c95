"""How far each published row can be trusted: computed from results, rules and git, never typed.

- `not accepted`: a rule of severity error found something. No such row gets past a pull request.
- `self-reported`: every rule of severity error passes: form, physics, statistics, receipts.
- `reproducible`: also no open review; a clean commit of this repository, whose file of the variant
  is the one that ran; revision and protocol of this tree; a receipt where a layer was timed.
- `reproduced`: also another account measured the same case on the same machine model and agrees,
  and more accounts agree than differ.
- `maintainer-verified`: also one of those accounts is a maintainer, an owner of results/ in
  CODEOWNERS.

Each tier needs all before it. Accounts are those that `attnbench check --account` held against the
author of the pull request; `anonymous` never counts as another person. Machines of one model have
one `hardware_id`; times of different models are never compared.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.ledger import Ledger, digests_at, ledger
from bench.model import PROTOCOL_VERSION, Ok
from bench.published import Published
from bench.reproduce import agrees
from bench.rules import check_stored
from bench.submission import Refusal, StoredRun
from bench.tier import Finding, Tier, Trust

ANONYMOUS = "anonymous"
OWNERS = Path(__file__).parents[1] / ".github" / "CODEOWNERS"
Row = tuple[str, str]
"""run_id and case id."""


def judged(
    root: Path, stored: Sequence[StoredRun], refusals: Sequence[Refusal]
) -> Mapping[Row, Trust]:
    """Judge every row of results that were read from the folder `root`."""
    history = ledger(root)
    findings = check_stored(root, stored, refusals, history=history)
    return trust(
        stored,
        findings,
        sources=sources_at_commits(root, stored, history),
        maintainers=maintainers(),
    )


def trust(
    stored: Sequence[StoredRun],
    findings: Sequence[Finding],
    *,
    sources: Mapping[Row, bool],
    maintainers: frozenset[str],
) -> Mapping[Row, Trust]:
    """Compute the tier of every row.

    Args:
        stored: all accepted runs.
        findings: what `check` found about them.
        sources: (run_id, variant) -> whether the variant's file at the run's commit is the one
            that ran; a missing entry means that it cannot be looked up.
        maintainers: accounts whose agreement verifies.
    """
    by_path: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_path[finding.path].append(finding)
    rows: dict[tuple[str, str], list[Published]] = defaultdict(list)
    about: dict[Row, tuple[Finding, ...]] = {}
    for one in stored:
        folder = f"{one.run.environment.hardware_id}/{one.run.run_id}"
        of_run = [*by_path[folder], *by_path[f"{folder}/run.json"]]
        for file in one.files:
            of_file = [*of_run, *by_path[f"{folder}/{file.variant}.json"]]
            for record in file.records:
                case_id = record.case.id
                rows[one.run.environment.hardware_id, case_id].append(
                    Published(run=one.run, record=record)
                )
                about[one.run.run_id, case_id] = tuple(
                    f for f in of_file if not f.case_ids or case_id in f.case_ids
                )
    found: dict[Row, Trust] = {}
    for same_case in rows.values():
        for row in same_case:
            found[row.run.run_id, row.record.case.id] = _trust(
                row, same_case, about, sources, maintainers
            )
    return found


def _trust(
    row: Published,
    same_case: Sequence[Published],
    about: Mapping[Row, tuple[Finding, ...]],
    sources: Mapping[Row, bool],
    maintainers: frozenset[str],
) -> Trust:
    findings = about[row.run.run_id, row.record.case.id]
    accepted = not any(f.severity == "error" for f in findings)
    # numbers that no rule let through may be anything: nothing is computed from them
    agreeing, differing = _others(row, same_case, about) if accepted else ((), ())
    missing = tuple(_not_reproducible(row, findings, sources))
    tier: Tier = "not accepted"
    if not accepted:
        missing = tuple(sorted({f"{f.rule}: {f.message}" for f in findings if _is_error(f)}))
    elif missing:
        tier = "self-reported"
    elif not agreeing or len(differing) >= len(agreeing):
        tier, missing = "reproducible", (_not_reproduced(row, agreeing, differing),)
    elif not maintainers & set(agreeing):
        tier, missing = "reproduced", ("No maintainer has measured it again.",)
    else:
        tier, missing = "maintainer-verified", ()
    return Trust(
        tier=tier, agreeing=agreeing, differing=differing, missing=missing, findings=findings
    )


def _is_error(finding: Finding) -> bool:
    return finding.severity == "error"


def _not_reproducible(
    row: Published, findings: Sequence[Finding], sources: Mapping[Row, bool]
) -> Iterator[str]:
    run, record = row.run, row.record
    for finding in findings:
        if finding.severity == "review":
            yield f"Open review {finding.rule}: {finding.message}"
    if run.commit is None:
        yield "Not measured in a git checkout: nobody can get the code that ran."
    elif run.dirty:
        yield "The code differed from the commit."
    else:
        known = sources.get((run.run_id, record.case.variant))
        if known is None:
            yield f"Commit {run.commit[:10]} is not in the history that is at hand here."
        elif not known:
            yield "The variant's file at that commit is not the one that ran."
    if run.protocol.version != PROTOCOL_VERSION or any(f.rule == "R204" for f in findings):
        yield "Measured with an older revision or protocol: the tree no longer has the code."
    outcome = record.outcome
    if isinstance(outcome, Ok):
        metrics = {m.metric for m in outcome.measurements if m.kind == "measured"}
        layer = record.case.stimulus.kind == "workload"
        if layer and "latency" in metrics and "receipt" not in metrics:
            yield "No receipt: nothing shows that this code gave the output."


def _not_reproduced(row: Published, agreeing: Sequence[str], differing: Sequence[str]) -> str:
    if row.run.submitted_by == ANONYMOUS:
        return "Submitted anonymously: no other account can be told from this one."
    if differing:
        return (
            f"{', '.join(differing)} measured it and got something else; agreeing: "
            f"{', '.join(agreeing) or 'nobody'}."
        )
    return "No other account has measured it on this machine model."


def _others(
    row: Published, same_case: Sequence[Published], about: Mapping[Row, tuple[Finding, ...]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Other accounts that agree with the row, and that do not; of each the newest run counts.

    Who measured too roughly to tell is neither.
    """
    mine = row.run.submitted_by
    if mine == ANONYMOUS:
        return (), ()
    newest: dict[str, Published] = {}
    for other in sorted(same_case, key=lambda p: (p.run.created, p.run.run_id)):
        account = other.run.submitted_by
        findings = about[other.run.run_id, other.record.case.id]
        counts = account not in (ANONYMOUS, mine) and not other.run.conditions.busy
        counts = counts and _same_state(row, other)
        if counts and not any(f.severity != "flag" or f.rule == "R507" for f in findings):
            newest[account] = other
    verdicts = {account: agrees(row, other) for account, other in newest.items()}
    return (
        tuple(sorted(account for account, same in verdicts.items() if same)),
        tuple(sorted(account for account, same in verdicts.items() if same is False)),
    )


def _same_state(row: Published, other: Published) -> bool:
    """Same revision, protocol version and task: what may be compared at all."""
    mine, theirs = row.record, other.record
    return (
        mine.variant_revision == theirs.variant_revision
        and row.run.protocol.version == other.run.protocol.version
        and mine.task == theirs.task
    )


# What the tree says -------------------------------------------------------------------------------


def sources_at_commits(
    root: Path, stored: Sequence[StoredRun], history: Ledger | None
) -> Mapping[Row, bool]:
    """Return for (run_id, variant) whether the commit's file of the variant is the one that ran."""
    if history is None or history.commits is None:
        return {}
    asked = {
        (one.run.run_id, file.variant): ((one.run.commit, _path(file.variant)), file.source_sha256)
        for one in stored
        if one.run.commit is not None and one.run.commit in history.commits
        for file in one.files
    }
    digests = digests_at(root, [(commit or "", path) for (commit, path), _ in asked.values()])
    return {
        key: digests.get((commit or "", path)) == sha256
        for key, ((commit, path), sha256) in asked.items()
    }


def _path(variant: str) -> str:
    return f"attention_impls/variants/{variant}.py"


def maintainers(owners: Path = OWNERS) -> frozenset[str]:
    """Return the accounts that own results/ by the file CODEOWNERS; empty where there is none.

    The last line that fits decides, as on GitHub; teams are no accounts and are left out.
    """
    found: frozenset[str] = frozenset()
    for line in owners.read_text(encoding="utf-8").splitlines() if owners.is_file() else ():
        pattern, *names = line.partition("#")[0].split() or [""]
        if pattern in ("*", "/results/", "/results/**", "results/"):
            found = frozenset(
                name.removeprefix("@").lower()
                for name in names
                if name.startswith("@") and "/" not in name
            )
    return found
