"""A run made ready for a pull request: validated, laid out, and the commands that publish it."""

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import strict_json
from bench.ledger import ledger
from bench.model import Run
from bench.published import find_run
from bench.rules import check_results
from bench.submission import StoredRun, read_results
from bench.tier import Finding
from bench.whole_file import whole_file

ANONYMOUS = "anonymous"


class NotSubmittableError(ValueError):
    """A run that cannot be submitted as it is; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that may be submitted, and how."""

    run: Run
    folder: str
    """Below the results folder."""
    laid_out: bool
    """run.json had another layout and was written again; its contents are the same."""
    notes: tuple[Finding, ...]
    """What a reviewer will ask about, or pages will say."""
    commands: tuple[tuple[str, ...], ...]
    """What publishes the branch, in order, from the top of the checkout."""

    @property
    def script(self) -> str:
        """The commands as they are typed."""
        return "\n".join(shlex.join(command) for command in self.commands)


def prepare(name: str, results: Path, account: str, *, remote: str = "origin") -> Prepared:
    """Validate one run and say how it is submitted; lays out run.json, changes nothing else.

    Args:
        name: id of the run or its start, `<hardware_id>/<run_id>`, or the path of its folder.
        results: the results folder, in a checkout of the project.
        account: who submits.
        remote: where the branch is pushed to.

    Raises:
        UnknownName: no such run.
        NotSubmittableError: a rule found an error, the run is somebody else's, it is published
            already, or the results folder is in no checkout.
    """
    root = results.resolve()
    history = ledger(root)
    if shutil.which("git") is None:
        raise NotSubmittableError("a run is submitted with git, which is not there: install git")
    if history is None:
        raise NotSubmittableError(
            f"{results} is in no git checkout with a main branch: clone the project, copy the "
            "folder of the run below its results/ and submit from there"
        )
    stored = _stored(root, name)
    run, folder = stored.run, f"{stored.run.environment.hardware_id}/{stored.run.run_id}"
    if not history.is_new(folder):
        raise NotSubmittableError(
            f"{folder} is in {history.named} already: a run is submitted once; measure again for "
            "another"
        )
    if run.submitted_by not in (ANONYMOUS, account.lower()):
        raise NotSubmittableError(
            f"{folder} was measured by {run.submitted_by}, you are {account.lower()}: who measured "
            "a run submits it; measure your own with --submitted-by, or give --account if this is "
            "your account"
        )
    laid_out = _lay_out(stored.folder / "run.json")
    findings = check_results(root, (stored.folder,), account=account)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        listed = "\n".join(f"  {error}" for error in errors)
        raise NotSubmittableError(
            f"{folder} is not accepted; docs/rules/ has a page for each rule\n{listed}"
        )
    top = _git(root, "rev-parse", "--show-toplevel")
    path = (stored.folder.resolve().relative_to(Path(top).resolve())).as_posix()
    branch = f"results/{run.run_id}"
    words = f"Results of plan {run.plan} on {run.environment.hardware_id}"
    return Prepared(
        run=run,
        folder=folder,
        laid_out=laid_out,
        notes=findings,
        commands=(
            *_onto_branch(root, branch, history.named, path, words),
            ("git", "push", "-u", remote, branch),
        ),
    )


def _onto_branch(
    root: Path, branch: str, base: str, path: str, words: str
) -> tuple[tuple[str, ...], ...]:
    """The commands up to the commit; what an earlier attempt did is not done again."""
    commit = (("git", "add", "--", path), ("git", "commit", "-m", words, "--", path))
    if not _git(root, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}"):
        return (("git", "switch", "--no-track", "-c", branch, base), *commit)
    committed = bool(_git(root, "ls-tree", "--full-tree", branch, path))
    return (("git", "switch", branch), *(() if committed else commit))


def carry_out(prepared: Prepared, results: Path) -> None:
    """Run the commands of a submission.

    Raises:
        NotSubmittableError: git knows no name and address for a commit, or a command failed; names
            it, what it said, and what is left to do.
    """
    top = _git(results.resolve(), "rev-parse", "--show-toplevel")
    if not _git(results.resolve(), "var", "GIT_COMMITTER_IDENT"):
        raise NotSubmittableError(
            "git does not know whose commits these are: git config user.name 'Your Name', "
            "git config user.email you@example.org, then submit again; nothing was changed"
        )
    for number, command in enumerate(prepared.commands):
        done = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            left = "\n".join(f"  {shlex.join(one)}" for one in prepared.commands[number:])
            said = (done.stderr or done.stdout).strip()
            raise NotSubmittableError(
                f"{shlex.join(command)} failed: {said}\nMend that, then go on with\n{left}"
            )


def configured_account(folder: Path) -> str | None:
    """Return the account that git knows by `github.user`; None where it is not set."""
    return _git(folder, "config", "github.user") or None


def _stored(root: Path, name: str) -> StoredRun:
    path = Path(name)
    if path.is_dir() and path.resolve().is_relative_to(root):
        name = path.resolve().relative_to(root).as_posix()
    refused = [r for r in read_results(root)[1] if f"/{name}" in f"/{r.path}"]
    if refused:
        raise NotSubmittableError(
            f"{refused[0].path} is not readable as a run: {refused[0].reason}"
        )
    return find_run(root, name)


def _lay_out(path: Path) -> bool:
    """Write a JSON file in the layout of the project; its contents stay."""
    data = path.read_bytes()
    text = strict_json.pretty(strict_json.parse(data)).encode()
    if text == data:
        return False
    # not in the folder of the run, which holds its own files alone
    with whole_file(path, until_then=path.parents[1]) as file:
        file.write(text)
    return True


def _git(folder: Path, *arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
