"""`attnbench submit`: what is refused and why, and that the printed commands publish the run."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sample_run import noise_of, sample_header, sample_records, write_planned

from bench import rules
from bench.cli import main
from bench.environment import hardware_id
from bench.plan import everything, load_plan, only
from bench.rules import Finding
from bench.rules.rule import RunUnderTest
from bench.submission import read_run, write_run
from bench.submit import NotSubmittableError, carry_out, prepare


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Sample", "-c", "user.email=sample@example.org")
    early = {"GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}  # code is older than its runs
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments],
        check=True, capture_output=True, text=True, env=os.environ | early,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of a project with an empty results folder, and the remote it came from."""
    origin, clone = tmp_path / "origin.git", tmp_path / "clone"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(origin))
    git(tmp_path, "clone", "-q", str(origin), str(clone))
    for name, value in (("user.name", "Sample"), ("user.email", "sample@example.org")):
        git(clone, "config", name, value)
    git(clone, "switch", "-q", "-c", "main")
    (clone / "results").mkdir()
    (clone / "results" / "README.md").write_text("data")
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", "first")
    git(clone, "push", "-q", "-u", "origin", "main")
    return clone


def measured(
    checkout: Path, submitter: str = "alice", dirty: bool = False, only_: str = "softmax/sdpa"
) -> Path:
    """A good run of one execution in the results folder, as `attnbench run` would leave it."""
    results = checkout / "results"
    plan = only(load_plan("quick", everything("cpu")), only_)
    folder = write_planned(checkout.parent / "elsewhere" / only_.replace("/", "-"), plan)
    stored = read_run(folder)
    header = replace(
        stored.run, submitted_by=submitter, only=only_, dirty=dirty,
        commit=git(checkout, "rev-parse", "HEAD"),
    )  # fmt: skip
    return write_run(results, header, stored.files)


def attnbench(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_a_good_run_is_published_by_the_commands(checkout: Path) -> None:
    folder = measured(checkout)
    (checkout / "unrelated.txt").write_text("stays here")
    git(checkout, "add", "unrelated.txt")
    submission = prepare(folder.name, checkout / "results", "Alice")
    assert (submission.notes, submission.laid_out) == ((), False)
    assert submission.script.splitlines()[0] == (
        f"git switch --no-track -c results/{folder.name} origin/main"
    )
    carry_out(submission, checkout / "results")
    origin = checkout.parent / "origin.git"
    sent = git(origin, "diff", "--name-only", "main", f"results/{folder.name}").splitlines()
    path = folder.relative_to(checkout).as_posix()
    assert sent == [f"{path}/run.json", f"{path}/softmax.json"]
    assert git(checkout, "status", "--porcelain") == "A  unrelated.txt"


def test_the_printed_commands_are_those_that_run(checkout: Path) -> None:
    folder = measured(checkout)
    given = ("submit", str(folder), "--results", str(checkout / "results"), "--account", "alice")
    printed = attnbench(*given)
    assert printed.exit_code == 0, printed.output
    assert "accepted" in printed.output
    assert prepare(folder.name, checkout / "results", "alice").script in printed.output
    assert git(checkout, "branch", "--list", "results/*") == ""
    ran = attnbench(*given, "--run")
    assert ran.exit_code == 0, ran.output
    assert "pushed" in ran.output
    assert git(checkout, "branch", "--show-current") == f"results/{folder.name}"


def test_run_json_is_laid_out_and_keeps_its_contents(checkout: Path) -> None:
    folder = measured(checkout)
    before = (folder / "run.json").read_bytes()
    (folder / "run.json").write_text(json.dumps(json.loads(before), indent=4))
    assert prepare(folder.name, checkout / "results", "alice").laid_out
    assert (folder / "run.json").read_bytes() == before


def test_somebody_elses_run_is_refused(checkout: Path) -> None:
    folder = measured(checkout)
    with pytest.raises(NotSubmittableError, match="measured by alice, you are bob"):
        prepare(folder.name, checkout / "results", "bob")


def test_an_anonymous_run_may_be_submitted_by_anybody(checkout: Path) -> None:
    folder = measured(checkout, "anonymous")
    shown = attnbench(
        "submit", folder.name, "--results", str(checkout / "results"), "--account", "bob"
    )
    assert shown.exit_code == 0, shown.output
    assert "It is anonymous" in shown.output


def test_a_published_run_is_refused(checkout: Path) -> None:
    folder = measured(checkout)
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "published")
    git(checkout, "push", "-q", "origin", "main")
    with pytest.raises(NotSubmittableError, match="is in origin/main already"):
        prepare(folder.name, checkout / "results", "alice")


def test_a_run_that_check_does_not_accept_is_refused(checkout: Path) -> None:
    machine = sample_header().environment
    slug = hardware_id("cpu", machine.device_name, machine.cpu_count, machine.device_memory_bytes)
    header = replace(
        sample_header(), created="2999-01-01T00:00:00Z", submitted_by="alice",
        environment=replace(machine, hardware_id=slug),
    )  # fmt: skip
    header = noise_of(header, ("softmax",))
    folder = write_run(checkout / "results", header, sample_records(("softmax",)))
    with pytest.raises(NotSubmittableError, match=r"not accepted(.|\n)*R208: created 2999"):
        prepare(folder.name, checkout / "results", "alice")


def test_an_edited_run_is_not_found_and_says_why(checkout: Path) -> None:
    folder = measured(checkout)
    path = folder / "softmax.json"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    shown = attnbench(
        "submit", str(folder), "--results", str(checkout / "results"), "--account", "alice"
    )
    assert shown.exit_code == 1
    assert "sha256 differs" in shown.output


def test_outside_of_a_checkout_nothing_can_be_submitted(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sample_header(), sample_records(("softmax",)))
    with pytest.raises(NotSubmittableError, match="no git checkout"):
        prepare(folder.name, tmp_path, "alice")


def test_who_submits_must_be_known(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    folder = measured(checkout)
    given = ("submit", folder.name, "--results", str(checkout / "results"))
    assert "nobody knows who you are" in attnbench(*given).output
    git(checkout, "config", "github.user", "alice")
    assert attnbench(*given).exit_code == 0


def test_a_failed_command_says_what_is_left(checkout: Path) -> None:
    folder = measured(checkout)
    submission = prepare(folder.name, checkout / "results", "alice", remote="nowhere")
    with pytest.raises(NotSubmittableError, match="go on with\n  git push -u nowhere results/"):
        carry_out(submission, checkout / "results")


def test_a_second_run_is_submitted_from_the_branch_of_the_first(checkout: Path) -> None:
    results, origin = checkout / "results", checkout.parent / "origin.git"
    first = measured(checkout)
    carry_out(prepare(first.name, results, "alice"), results)
    second = measured(checkout, only_="softmax/reference/layer")
    carry_out(prepare(second.name, results, "alice"), results)
    sent = git(origin, "diff", "--name-only", "main", f"results/{second.name}").splitlines()
    assert {Path(path).parent.name for path in sent} == {second.name}
    assert not first.exists(), "it is on its own branch"


def test_a_fork_whose_main_is_old_gets_the_run_alone(checkout: Path) -> None:
    (checkout / "newer.txt").write_text("in the project, not yet in the fork")
    git(checkout, "add", "newer.txt")
    git(checkout, "commit", "-q", "-m", "second")
    folder = measured(checkout)
    carry_out(prepare(folder.name, checkout / "results", "alice"), checkout / "results")
    origin = checkout.parent / "origin.git"
    sent = git(origin, "diff", "--name-only", "main", f"results/{folder.name}").splitlines()
    assert {Path(path).parent.name for path in sent} == {folder.name}


def test_a_published_file_that_was_changed_is_refused_with_the_way_back(checkout: Path) -> None:
    folder, results = measured(checkout), checkout / "results"
    carry_out(prepare(folder.name, results, "alice"), results)
    git(checkout, "push", "-q", "origin", "HEAD:main")
    git(checkout, "fetch", "-q")
    path = folder / "softmax.json"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    shown = attnbench("check", "--results", str(results))
    assert shown.exit_code == 1
    assert "error R103: changed since" in shown.output
    (back,) = {part for part in shown.output.split("`") if part.startswith("git -C results")}
    git(checkout, *back.split()[1:])
    assert "R103" not in attnbench("check", "--results", str(results)).output


def test_a_run_is_judged_without_judging_all_others(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = measured(checkout), measured(checkout, only_="softmax/reference/layer")
    judged: list[str] = []

    def findings(run: RunUnderTest) -> list[Finding]:
        judged.append(run.folder)
        return []

    monkeypatch.setattr(rules, "_findings", findings)
    rules.check_results(checkout / "results", (second,))
    assert [Path(folder).name for folder in judged] == [second.name]
    judged.clear()
    rules.check_results(checkout / "results", (first.parent,))
    rules.check_results(checkout / "results")
    assert len(judged) == 4


def test_without_a_name_for_commits_nothing_is_changed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = measured(checkout)
    for name in ("user.name", "user.email"):
        git(checkout, "config", "--unset", name)
    git(checkout, "config", "user.useConfigOnly", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME",
                 "GIT_COMMITTER_EMAIL", "EMAIL"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    submission = prepare(folder.name, checkout / "results", "alice")
    with pytest.raises(NotSubmittableError, match=r"user\.name 'Your Name'.*nothing was changed"):
        carry_out(submission, checkout / "results")
    assert git(checkout, "branch", "--show-current") == "main"


def test_a_second_attempt_goes_on_where_the_first_stopped(checkout: Path) -> None:
    folder = measured(checkout)
    results = checkout / "results"
    with pytest.raises(NotSubmittableError):
        carry_out(prepare(folder.name, results, "alice", remote="nowhere"), results)
    again = prepare(folder.name, results, "alice")
    assert [command[1] for command in again.commands] == ["switch", "push"]
    git(checkout, "reset", "-q", "--soft", "HEAD~1")
    again = prepare(folder.name, results, "alice")
    assert [command[1] for command in again.commands] == ["switch", "add", "commit", "push"]
    carry_out(again, results)
    sent = git(
        checkout.parent / "origin.git", "ls-tree", "-r", "--name-only", f"results/{folder.name}"
    )
    assert f"{folder.name}/run.json" in sent


def test_without_git_a_run_cannot_be_submitted(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = measured(checkout)
    monkeypatch.setenv("PATH", str(checkout))
    with pytest.raises(NotSubmittableError, match="git, which is not there: install git"):
        prepare(folder.name, checkout / "results", "alice")


def test_reviews_are_shown_and_do_not_stop(checkout: Path) -> None:
    folder = measured(checkout, dirty=True)
    (note,) = prepare(folder.name, checkout / "results", "alice").notes
    assert (note.rule, note.severity) == ("R207", "flag")


# check --report -----------------------------------------------------------------------------------


def test_check_reports_what_a_branch_adds(checkout: Path, tmp_path: Path) -> None:
    folder, report = measured(checkout), tmp_path / "report.json"
    given = ("check", "--results", str(checkout / "results"), "--report", str(report))
    shown = attnbench(*given, "--account", "alice", "--base", "origin/main")
    assert shown.exit_code == 0, shown.output
    assert "(origin/main)" in shown.output
    told = json.loads(report.read_text())
    (run,) = told["runs"]
    assert run["folder"] == f"{folder.parent.name}/{folder.name}"
    assert run["submitted_by"] == "alice"
    assert run["tiers"] == {"self-reported": sum(run["outcomes"].values())}
    assert attnbench(*given, "--account", "bob").exit_code == 1
    assert [f["rule"] for f in json.loads(report.read_text())["findings"]] == ["R109"]
    assert "no commit in common" in attnbench(*given, "--base", "nowhere").output


def test_check_says_when_history_was_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, sample_header(), sample_records(("softmax",)))
    assert "history not compared" in attnbench("check", "--results", str(tmp_path)).output
