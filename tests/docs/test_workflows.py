"""The automation on pull requests can read, cannot write, and runs pinned actions."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def dangers(text: str) -> list[str]:
    """Everything in a workflow that would give a stranger's pull request more than reading."""
    found = [f"not pinned by commit: {use}" for use in re.findall(r"uses: (\S+)", text)
             if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", use)]  # fmt: skip
    found += ["pull_request_target"] if "pull_request_target" in text else []
    found += ["a token that can write"] if re.search(r":\s*write\b|write-all", text) else []
    found += ["secrets"] if re.search(r"\$\{\{[^}]*\bsecrets\b", text) else []
    found += ["no empty default permissions"] if "\npermissions: {}\n" not in text else []
    checkouts = text.count("actions/checkout@")
    if text.count("persist-credentials: false") != checkouts:
        found.append("a checkout keeps its token")
    if re.search(r"run:.*\$\{\{\s*github\.(event|head_ref)", text):
        found.append("text of the pull request in a shell command")
    return found


def test_there_are_workflows() -> None:
    assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_is_safe(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("old", "new", "danger"),
    [
        ("11bd71901bbe5b1630ceea73d27597364c9af683", "v4", "not pinned"),
        ("pull_request:", "pull_request_target:", "pull_request_target"),
        ("contents: read", "contents: write", "can write"),
        ("run: .ci/run", "run: echo ${{ secrets.TOKEN }}", "secrets"),
        ("permissions: {}", "permissions: read-all", "default permissions"),
        ("persist-credentials: false", "persist-credentials: true", "keeps its token"),
        ("run: .ci/run", "run: echo ${{ github.event.pull_request.title }}", "shell command"),
    ],
)
def test_each_danger_is_noticed(old: str, new: str, danger: str) -> None:
    """Negative control: the workflow of the checks, made unsafe in one place."""
    text = (ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
    assert old in text
    (found,) = dangers(text.replace(old, new))
    assert danger in found


def test_results_are_judged_by_the_code_of_the_target_branch() -> None:
    text = (ROOT / ".github" / "workflows" / "results.yml").read_text(encoding="utf-8")
    assert "ref: ${{ github.event.pull_request.base.sha }}" in text
    assert "sparse-checkout: results" in text
    assert "nox -s check -- --results submitted/results" in text
