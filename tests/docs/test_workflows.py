"""The automation on pull requests: who may write, what is executed, and that linters agree."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*[!g].yml"))
MAY_WRITE = {
    ("comment", "post"): {"pull-requests"},
    ("pages", "publish"): {"pages", "id-token"},
}
"""Jobs whose token can write, and what; every other job can read at most."""
OF_A_STRANGER = re.compile(
    r"\$\{\{[^}]*\bgithub\.(?:head_ref|event\.(?:pull_request\.(?!number|base)|issue|comment|"
    r"review|workflow_run\.(?!id\b)|head_commit))"
)


def dangers(name: str, text: str) -> list[str]:
    """Everything in a workflow that would give a stranger's pull request more than reading."""
    found = [f"not pinned by commit: {use}" for use in re.findall(r"uses: (\S+)", text)
             if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", use)]  # fmt: skip
    found += ["pull_request_target"] if "pull_request_target" in text else []
    found += ["secrets"] if re.search(r"\$\{\{[^}]*\bsecrets\b", text) else []
    found += ["no empty default permissions"] if "\npermissions: {}\n" not in text else []
    checkouts = text.count("actions/checkout@")
    if text.count("persist-credentials: false") != checkouts:
        found.append("a checkout keeps its token")
    workflow: dict[Any, Any] = yaml.safe_load(text)
    triggers = set(workflow[True])  # YAML 1.1 reads `on` as a boolean
    for job, body in workflow["jobs"].items():
        writes = {what for what, how in body["permissions"].items() if how != "read"}
        if not writes <= MAY_WRITE.get((name, job), set()):
            found.append("a token that can write")
        if "timeout-minutes" not in body:
            found.append("no time limit")
        for step in body["steps"]:
            found += _step_dangers(step, writes=bool(writes), triggers=triggers)
    return found


def _step_dangers(step: dict[str, Any], *, writes: bool, triggers: set[str]) -> list[str]:
    found: list[str] = []
    if OF_A_STRANGER.search(step.get("run", "")):
        found.append("text of the pull request in a shell command")
    ref = str(step.get("with", {}).get("ref", ""))
    checkout = step.get("uses", "").startswith("actions/checkout@")
    trusted = ref.endswith(("base.sha }}", "default_branch }}"))
    if checkout and writes and not trusted and triggers != {"push"}:
        found.append("code of a pull request beside a token that can write")
    if "submitted" in step.get("run", "") and re.search(
        r"(?:\./|bash |sh |cd |python3? |-m pip install )\S*submitted", step["run"]
    ):
        found.append("data of the pull request is executed")
    return found


def test_there_are_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["checks", "comment", "pages", "results"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_is_safe(path: Path) -> None:
    assert dangers(path.stem, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "danger"),
    [
        ("checks", "11bd71901bbe5b1630ceea73d27597364c9af683", "v4", "not pinned"),
        ("checks", "pull_request:", "pull_request_target:", "pull_request_target"),
        ("checks", "contents: read", "contents: write", "can write"),
        ("checks", "run: .ci/run", "run: echo ${{ secrets.TOKEN }}", "secrets"),
        ("checks", "permissions: {}", "permissions: read-all", "default permissions"),
        ("checks", "persist-credentials: false", "persist-credentials: true", "keeps its token"),
        ("checks", "run: .ci/run", "run: echo ${{ github.event.pull_request.title }}", "shell"),
        ("checks", "    timeout-minutes: 30\n", "", "no time limit"),
        ("results", "contents: read", "pull-requests: write", "can write"),
        ("results", '--base "$BASE"', "--base ${{ github.event.pull_request.head.ref }}", "shell"),
        ("results", "python -m pip install nox", "python submitted/x.py", "is executed"),
        ("comment", "contents: read", "contents: write", "can write"),
        ("comment", "ref: ${{ github.event.repository.default_branch }}",
         "ref: ${{ github.event.workflow_run.head_sha }}", "beside a token that can write"),
        ("comment", "gh api -X GET", "gh ${{ github.event.workflow_run.head_branch }}", "shell"),
        ("pages", "contents: read", "contents: write", "can write"),
    ],
)  # fmt: skip
def test_each_danger_is_noticed(name: str, old: str, new: str, danger: str) -> None:
    """Negative control: a workflow made unsafe in one place."""
    text = (GITHUB / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    assert old in text
    assert any(danger in found for found in dangers(name, text.replace(old, new, 1)))


def test_results_are_judged_by_the_code_of_the_target_branch() -> None:
    text = (GITHUB / "workflows" / "results.yml").read_text(encoding="utf-8")
    assert "ref: ${{ github.event.pull_request.base.sha }}" in text
    assert "sparse-checkout: results" in text
    assert "nox -s check -- --results submitted/results --base" in text
    assert "github.event.pull_request.user.login" in text


def test_the_comment_knows_the_pull_request_from_the_event() -> None:
    text = (GITHUB / "workflows" / "comment.yml").read_text(encoding="utf-8")
    assert "workflow_run:" in text
    assert "select(.head.sha == env.HEAD)" in text
    assert "python3 -m bench.comment submitted/report.json" in text


def test_pages_are_published_on_merge_by_a_job_without_code() -> None:
    workflow: Any = yaml.safe_load((GITHUB / "workflows" / "pages.yml").read_text("utf-8"))
    assert workflow[True] == {"push": {"branches": ["main"]}}
    assert all("run" not in step for step in workflow["jobs"]["publish"]["steps"])
    assert any(step.get("run") == "nox -s check" for step in workflow["jobs"]["build"]["steps"])


# Linters from the package index -------------------------------------------------------------------


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed: it is in the dependency group tests")
    return found


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [tool("zizmor"), "--offline", "--pedantic", "--quiet", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_zizmor_finds_nothing() -> None:
    done = linted(GITHUB)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_would_find_something(tmp_path: Path) -> None:
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    text = (GITHUB / "workflows" / "checks.yml").read_text(encoding="utf-8")
    unsafe = text.replace("run: .ci/run", "run: echo ${{ github.event.pull_request.title }}")
    (folder / "checks.yml").write_text(unsafe, encoding="utf-8")
    assert "template-injection" in linted(tmp_path / ".github").stdout


def schema_errors(kind: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = [tool("check-jsonschema"), "--builtin-schema", f"vendor.github-{kind}"]
    return subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("kind", "paths"),
    [("workflows", WORKFLOWS), ("issue-forms", FORMS),
     ("issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"])],
)  # fmt: skip
def test_github_would_read_the_files(kind: str, paths: list[Path], tmp_path: Path) -> None:
    assert paths
    done = schema_errors(kind, *paths)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text("jobs: 1\nbody: 2\nblank_issues_enabled: maybe\n", encoding="utf-8")
    assert schema_errors(kind, broken).returncode == 1


def test_there_is_a_form_for_each_kind_of_issue() -> None:
    assert [path.stem for path in FORMS] == ["challenge", "result", "variant"]


def test_owners_are_named() -> None:
    from bench.trust import maintainers

    assert maintainers()
    text = (GITHUB / "CODEOWNERS").read_text(encoding="utf-8")
    for path in re.findall(r"^/(\S+)", text, re.M):
        assert (ROOT / path).is_dir(), path
