"""Git as the ledger of results/: what was there before, what a branch adds, which code existed.

Everything that depends on the merge base is asked once and kept, so that one check cannot judge by
two bases.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

MAIN_BRANCHES = ("origin/main", "main", "origin/master", "master")
"""Where the merge base is looked for when none is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What git knows about a results folder, asked once."""

    base: str
    """Commit that this checkout branched off."""
    named: str
    """The branch or revision that the base was found by."""
    known: frozenset[str]
    """Files below the results folder at the base, relative to it."""
    rewritten: Mapping[str, str]
    """Files of `known` that are other now -> `changed` or `deleted`."""
    elsewhere: tuple[str, ...]
    """Files outside of the results folder that the branch changes, relative to the repository."""
    commits: Mapping[str, int] | None
    """Every commit of the history, and when it was made in seconds since 1970; None where the clone
    is shallow and does not have it."""

    def is_new(self, folder: str) -> bool:
        """Whether a folder below the results folder holds nothing that was there at the base."""
        return not any(path.startswith(f"{folder}/") for path in self.known)


def ledger(root: Path, base: str | None = None) -> Ledger | None:
    """Ask git about the results folder `root`.

    Args:
        root: the results folder.
        base: revision to compare with; None: the main branch, where there is one.

    Returns:
        None where `base` is None and `root` is in no checkout with a main branch.

    Raises:
        ValueError: `base` was given and is not a commit of this checkout.
    """
    for name in (base,) if base is not None else MAIN_BRANCHES:
        found = _git(root, "merge-base", "HEAD", f"{name}^{{commit}}")
        if found is not None:
            break
    else:
        if base is not None:
            raise ValueError(
                f"base {base!r} has no commit in common with the checkout of {root}: give a commit "
                "or branch of it, and fetch the whole history"
            )
        return None
    commit = found.strip()
    return Ledger(
        base=commit,
        named=name,
        known=frozenset(_lines(root, "ls-tree", "-r", "-z", "--name-only", commit, "./")),
        rewritten=_rewritten(root, commit),
        elsewhere=_elsewhere(root, commit),
        commits=commits(root),
    )


def commits(folder: Path) -> Mapping[str, int] | None:
    """Return every commit that HEAD descends from, and when it was made in seconds since 1970.

    None without git or in a shallow clone.
    """
    if (_git(folder, "rev-parse", "--is-shallow-repository") or "").strip() != "false":
        return None
    found = _git(folder, "rev-list", "--timestamp", "HEAD")
    if found is None:
        return None
    pairs = (line.split() for line in found.splitlines())
    return {commit: int(made) for made, commit in pairs}


def digests_at(folder: Path, wanted: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
    """Return the sha256 of files as they were at commits; what did not exist is left out.

    Args:
        folder: in the checkout that is asked.
        wanted: pairs of commit and path from the top of the repository.
    """
    asked = sorted(set(wanted))
    git = shutil.which("git")
    if git is None or not asked:
        return {}
    names = "".join(f"{commit}:{path}\n" for commit, path in asked)
    done = subprocess.run(
        [git, "-C", str(folder), "cat-file", "--batch"],
        input=names.encode(), capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        return {}
    found: dict[tuple[str, str], str] = {}
    rest = done.stdout
    for key in asked:
        head, _, rest = rest.partition(b"\n")
        words = head.split()
        if len(words) == 3 and words[1] == b"blob":
            size = int(words[2])
            found[key] = hashlib.sha256(rest[:size]).hexdigest()
            rest = rest[size + 1 :]
    return found


def _rewritten(root: Path, base: str) -> Mapping[str, str]:
    listed = _lines(root, "diff", "--name-status", "-z", "--no-renames", "--relative", base, "./")
    told = {"D": "deleted"}
    pairs = zip(listed[::2], listed[1::2], strict=False)
    return {path: told.get(status, "changed") for status, path in pairs if status != "A"}


def _elsewhere(root: Path, base: str) -> tuple[str, ...]:
    prefix = (_git(root, "rev-parse", "--show-prefix") or "").strip()
    plain = ("--no-renames", "--no-relative")  # whatever this user's git is told to do
    changed = _lines(root, "diff", "--name-only", "-z", *plain, base, "HEAD")
    return tuple(path for path in changed if not path.startswith(prefix)) if prefix else ()


def _lines(folder: Path, *arguments: str) -> tuple[str, ...]:
    """Entries that git ends with NUL, so that no name of a file can pass for two."""
    return tuple(filter(None, (_git(folder, *arguments) or "").split("\0")))


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "-C", str(folder), *arguments],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else None
