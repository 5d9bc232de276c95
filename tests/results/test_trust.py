"""Trust tiers: what each needs, with every need taken away once."""

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from results_in_memory import scaled
from sample_run import sample_header, sample_records

from attention_impls.registry import source_file
from bench.ledger import digests_at, ledger
from bench.model import REPRODUCTION, Measured, NotRun, Ok, Record, Run
from bench.published import Published
from bench.reproduce import agrees
from bench.submission import StoredRun, identified
from bench.tier import TIERS, Finding, Trust
from bench.trust import maintainers, sources_at_commits, trust

ROW = "softmax/reference/layer/b1/32x32/h3d64/float32/forward#"
COMMIT = "1" * 40


def run(account: str = "alice", day: int = 1, factor: float = 1.0, **changes: Any) -> StoredRun:
    """The synthetic softmax run of one account, with every latency times `factor`."""
    (file,) = sample_records(("softmax",))
    file = replace(file, records=tuple(scaled(record, factor) for record in file.records))
    header = replace(
        sample_header(created=f"2026-01-{day:02}T03:04:05Z"),
        submitted_by=account, commit=COMMIT, **changes,
    )  # fmt: skip
    identity, files = identified(header, [file])
    return StoredRun(run=identity, files=files, folder=Path("sample"))


def of(
    *runs: StoredRun,
    findings: tuple[Finding, ...] = (),
    source: bool | None = True,
    maintaining: str = "",
    row: str = ROW,
) -> Trust:
    """Trust of one row of the first of `runs`."""
    known = {} if source is None else {(r.run.run_id, "softmax"): source for r in runs}
    every = trust(runs, findings, sources=known, maintainers=frozenset(maintaining.split()))
    (found,) = (t for (run_id, case), t in every.items()
                if run_id == runs[0].run.run_id and case.startswith(row))  # fmt: skip
    return found


def finding(stored: StoredRun, severity: Any, file: str = "run.json", **more: Any) -> Finding:
    path = f"{stored.run.environment.hardware_id}/{stored.run.run_id}/{file}"
    rule = more.pop("rule", "R999")
    return Finding(rule=rule, severity=severity, path=path, message="planted", **more)


def changed(stored: StoredRun, change: Any) -> StoredRun:
    """The run with `change` applied to the record of ROW."""
    (file,) = stored.files
    records = tuple(change(r) if r.case.id.startswith(ROW) else r for r in file.records)
    return replace(stored, files=(replace(file, records=records),))


def without(metric: str) -> Any:
    def change(record: Record) -> Record:
        assert isinstance(record.outcome, Ok)
        rest = tuple(m for m in record.outcome.measurements if m.metric != metric)
        return replace(record, outcome=replace(record.outcome, measurements=rest))

    return change


def header(stored: StoredRun, **changes: Any) -> StoredRun:
    return replace(stored, run=replace(stored.run, **changes))


# Reproducible -------------------------------------------------------------------------------------


def test_a_good_row_is_reproducible_and_says_what_is_missing() -> None:
    found = of(run())
    assert found.tier == "reproducible"
    assert found.missing == ("No other account has measured it on this machine model.",)


@pytest.mark.parametrize(
    ("broken", "source", "reason"),
    [
        (lambda one: header(one, commit=None), True, "nobody can get the code"),
        (lambda one: header(one, dirty=True), True, "differed from the commit"),
        (lambda one: one, False, "not the one that ran"),
        (lambda one: one, None, "not in the history"),
        (lambda one: header(one, protocol=replace(one.run.protocol, version=999)), True, "older"),
        (lambda one: changed(one, without("receipt")), True, "No receipt"),
    ],
)
def test_what_reproducible_needs(broken: Any, source: bool | None, reason: str) -> None:
    found = of(broken(run()), source=source)
    assert found.tier == "self-reported"
    assert any(reason in sentence for sentence in found.missing)


def test_an_open_review_keeps_a_row_self_reported_and_a_flag_does_not() -> None:
    one = run()
    assert of(one, findings=(finding(one, "review"),)).tier == "self-reported"
    assert of(one, findings=(finding(one, "flag"),)).tier == "reproducible"
    assert of(one, findings=(finding(one, "flag"),)).rules == ("R999",)
    assert of(one, findings=(finding(one, "flag", rule="R204"),)).tier == "self-reported"


def test_an_error_is_not_accepted_whatever_else_speaks_for_the_row() -> None:
    one, other = run(), run("bob", 2)
    found = of(one, other, findings=(finding(one, "error"),), maintaining="bob")
    assert found.tier == "not accepted"
    assert found.missing == ("R999: planted",)


def test_a_finding_about_another_case_does_not_count() -> None:
    one = run()
    mine = next(r.case.id for r in one.records if r.case.id.startswith(ROW))
    about = finding(one, "review", "softmax.json", case_ids=(mine,))
    other = finding(one, "review", "softmax.json", case_ids=("another",))
    assert of(one, findings=(about,)).tier == "self-reported"
    assert of(one, findings=(other,)).tier == "reproducible"
    assert of(one, findings=(finding(one, "review", "inline.json"),)).tier == "reproducible"


# Reproduced ---------------------------------------------------------------------------------------


def test_another_account_that_agrees_reproduces() -> None:
    found = of(run(), run("bob", 2), run("carol", 3, 1.05))
    assert (found.tier, found.agreeing) == ("reproduced", ("bob", "carol"))
    assert found.missing == ("No maintainer has measured it again.",)


@pytest.mark.parametrize(
    "other",
    [
        run("alice", 2),
        run("anonymous", 2),
        run("bob", 2, 1.5),
        run("bob", 2, conditions=replace(sample_header().conditions, busy=True)),
        run("bob", 2, protocol=replace(sample_header().protocol, version=999)),
        run("bob", 2, environment=replace(sample_header().environment, hardware_id="other-cpu")),
        changed(run("bob", 2), lambda r: replace(r, variant_revision=999)),
        changed(run("bob", 2), lambda r: replace(r, outcome=NotRun(reason="no time"))),
    ],
    ids=["own", "anonymous", "slower", "busy", "protocol", "machine", "revision", "failed"],
)  # fmt: skip
def test_what_does_not_reproduce(other: StoredRun) -> None:
    assert of(run(), other).tier == "reproducible"


@pytest.mark.parametrize(
    ("severity", "rule", "tier"),
    [("error", "R404", "reproducible"), ("review", "R504", "reproducible"),
     ("flag", "R507", "reproducible"), ("flag", "R503", "reproduced")],
)  # fmt: skip
def test_a_doubtful_run_confirms_nothing(severity: str, rule: str, tier: str) -> None:
    other = run("bob", 2)
    assert of(run(), other, findings=(finding(other, severity, rule=rule),)).tier == tier


def test_accounts_that_differ_must_be_outnumbered() -> None:
    found = of(run(), run("bob", 2), run("carol", 3, 2.0))
    assert found.tier == "reproducible"
    assert (found.agreeing, found.differing) == (("bob",), ("carol",))
    assert "carol measured it and got something else" in found.missing[0]
    assert of(run(), run("bob", 2), run("carol", 3, 2.0), run("dan", 4)).tier == "reproduced"


def test_of_one_account_the_newest_run_counts_and_counts_once() -> None:
    assert of(run(), run("bob", 2, 2.0), run("bob", 3)).agreeing == ("bob",)
    assert of(run(), run("bob", 2), run("bob", 3, 2.0)).differing == ("bob",)


def test_an_anonymous_row_cannot_be_told_from_others() -> None:
    found = of(run("anonymous"), run("bob", 2))
    assert found.tier == "reproducible"
    assert "anonymously" in found.missing[0]


def test_failures_are_reproduced_by_the_same_failure() -> None:
    failed = "softmax/reference/layer/b1/128x128"
    assert of(run(), run("bob", 2), row=failed).tier == "reproduced"


@pytest.mark.parametrize(("items", "same"), [(0, True), (5, True), (60, False)])
def test_accuracies_agree_within_the_error_of_counting(items: int, same: bool) -> None:
    one = next(r for r in run().records if r.case.stimulus.kind == "task")
    assert isinstance(one.outcome, Ok)
    moved = tuple(
        replace(m, rounds=((m.rounds[0][0] - items / 360,),))
        if isinstance(m, Measured) and m.metric == "accuracy" else m
        for m in one.outcome.measurements
    )  # fmt: skip
    other = replace(one, outcome=replace(one.outcome, measurements=moved))
    header_: Run = run().run
    assert agrees(Published(run=header_, record=one), Published(run=header_, record=other)) == same


# Maintainers --------------------------------------------------------------------------------------


def test_a_maintainer_who_agrees_verifies_but_not_the_own_row() -> None:
    found = of(run(), run("bob", 2), maintaining="bob")
    assert (found.tier, found.missing) == ("maintainer-verified", ())
    assert of(run(), run("bob", 2), maintaining="alice").tier == "reproduced"
    assert of(run(), run("bob", 2, 2.0), maintaining="bob").tier == "reproducible"


def test_maintainers_are_the_owners_of_results(tmp_path: Path) -> None:
    owners = tmp_path / "CODEOWNERS"
    assert maintainers(owners) == frozenset()
    owners.write_text("# people\n* @Alice @org/team carol@example.org\n/docs/ @bob\n")
    assert maintainers(owners) == {"alice"}
    owners.write_text("* @alice\n/results/ @dan @erin\n")
    assert maintainers(owners) == {"dan", "erin"}


def test_every_tier_has_its_word_explained_and_none_is_unreachable() -> None:
    assert list(TIERS) == [
        "not accepted", "self-reported", "reproducible", "reproduced", "maintainer-verified",
    ]  # fmt: skip
    assert all(words.endswith(".") for words in TIERS.values())


# Git ----------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout with softmax's file as it is and results/ beside it, committed on main."""
    file = tmp_path / "attention_impls" / "variants" / "softmax.py"
    file.parent.mkdir(parents=True)
    file.write_bytes(source_file("softmax").read_bytes())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "README.md").write_text("data")
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
        git(tmp_path, *words)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Sample", "-c", "user.email=sample@example.org")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_file_that_ran_is_looked_up_at_the_commit(repository: Path) -> None:
    root, head = repository / "results", git(repository, "rev-parse", "HEAD")
    measured = header(run(), commit=head)
    key = (measured.run.run_id, "softmax")
    assert sources_at_commits(root, [measured], ledger(root)) == {key: True}
    (repository / "attention_impls/variants/softmax.py").write_text("changed")
    git(repository, "commit", "-qam", "second")
    assert sources_at_commits(root, [measured], ledger(root)) == {key: True}
    later = header(measured, commit=git(repository, "rev-parse", "HEAD"))
    assert sources_at_commits(root, [later], ledger(root)) == {key: False}
    assert sources_at_commits(root, [header(measured, commit="2" * 40)], ledger(root)) == {}
    assert sources_at_commits(root, [measured], None) == {}


def test_digests_at_commits(repository: Path) -> None:
    head, path = git(repository, "rev-parse", "HEAD"), "results/README.md"
    assert digests_at(repository, [(head, path), (head, "gone")]) == {
        (head, path): hashlib.sha256(b"data").hexdigest()
    }


def test_a_shallow_clone_knows_no_commits(repository: Path, tmp_path: Path) -> None:
    whole = ledger(repository / "results")
    assert whole is not None
    assert whole.commits is not None
    assert set(whole.commits) == {git(repository, "rev-parse", "HEAD")}
    (repository / "more").write_text("x")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "second")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", repository.as_uri(), str(clone))
    shallow = ledger(clone / "results")
    assert shallow is not None
    assert shallow.commits is None


def test_reproductions_have_a_plan_name_of_their_own() -> None:
    from bench.plan import plan_names

    assert REPRODUCTION not in plan_names()
