"""Everything that has a name is documented, and everything documented exists."""

import re
import shlex
import tomllib
from itertools import chain
from pathlib import Path

import click
import pytest
from copied_tree import examples
from documents import PAGES, ROOT, broken_links, commands, text_of

from attention_impls import names
from attention_impls.registry import names_in
from bench.cli import main
from bench.metric import metrics
from bench.plan import everything, load_plan, plan_names, refuse_idle
from bench.task import tasks

ALL = "\n".join(text_of(page) for page in PAGES)
SESSIONS = set(
    re.findall(r"^@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text("utf-8"), re.M)
)
FIRST = "python -m pip install nox && nox -s bench"
SECOND = "python -m pip install nox && nox -s tests"


def verb_options(verb: str) -> set[str]:
    command = main.commands[verb]
    found = command.get_params(click.Context(command))
    return {o for p in found if isinstance(p, click.Option) for o in p.opts}


def documented(name: str, text: str) -> bool:
    """Whether `name` occurs as code."""
    return re.search(rf"`([^`\n]*\W)?{re.escape(name)}(\W[^`\n]*)?`", text) is not None


# Everything that exists is documented -------------------------------------------------------------


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_every_verb_is_documented(verb: str) -> None:
    mentions = [words[1] for words in commands(ALL, "attnbench") if len(words) > 1]
    listed = re.findall(r"`attnbench list`, (`[^.]*)\.", ALL)
    assert verb in mentions or any(f"`{verb}`" in line for line in listed)


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_every_verb_and_option_has_a_help_text(verb: str) -> None:
    assert main.commands[verb].help
    options = [p for p in main.commands[verb].params if isinstance(p, click.Option)]
    undocumented = [p.name for p in options if not p.help and p.name not in ("help", "plan_name")]
    assert undocumented == []


@pytest.mark.parametrize("session", sorted(SESSIONS))
def test_every_session_has_a_one_line_docstring(session: str) -> None:
    source = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert re.search(rf'^def {session}\(.*\n    """.+"""$', source, re.M)


@pytest.mark.parametrize("metric", [m.name for m in metrics()])
def test_every_metric_is_in_the_methodology(metric: str) -> None:
    assert documented(metric, text_of("docs/methodology.md"))


def named_variants(readme: str) -> set[str]:
    """Names in the first column of the table of variants."""
    table = readme.partition("## Variants")[2].partition("\n## ")[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_the_readme_names_variants_that_exist_and_where_all_are_listed() -> None:
    readme = text_of("README.md")
    assert {"softmax", "inline", "focused_linear", "soft"} <= named_variants(readme)
    assert named_variants(readme) <= set(names())
    assert "`attnbench list`" in readme
    assert named_variants("## Variants\n\n| family | `gone` |\n") - set(names()) == {"gone"}


@pytest.mark.parametrize("plan", plan_names())
def test_every_plan_is_documented_and_states_its_cost(plan: str) -> None:
    assert documented(plan, ALL)
    source = (ROOT / "bench" / "plans" / f"{plan}.py").read_text(encoding="utf-8")
    assert "Cost:" in source
    assert "Expected result:" in source


@pytest.mark.parametrize("task", [t.name for t in tasks()])
def test_every_task_is_in_the_methodology(task: str) -> None:
    assert documented(task, text_of("docs/methodology.md"))


def test_what_is_not_documented_is_noticed() -> None:
    """Negative control of the search."""
    assert not documented("loudness", ALL)
    assert documented("loudness", "the metric `loudness`, in decibels")


def test_every_outcome_is_in_the_methodology() -> None:
    from typing import get_args

    from bench.model import Outcome

    kinds = [noun.__dataclass_fields__["kind"].default for noun in get_args(get_args(Outcome)[0])]
    assert len(kinds) == 8
    assert [k for k in kinds if not documented(k, text_of("docs/methodology.md"))] == []


# Everything documented exists ---------------------------------------------------------------------


def test_the_two_commands_are_those_of_the_readme_and_of_ci() -> None:
    readme = text_of("README.md")
    assert re.search(rf"^    {re.escape(FIRST)} +#", readme, re.M)
    assert re.search(rf"^    {re.escape(SECOND)} +#", readme, re.M)
    assert SECOND in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def unknown_sessions(text: str) -> set[str]:
    called = {w[w.index("-s") + 1] for w in commands(text, "nox") if "-s" in w}
    return called - SESSIONS


@pytest.mark.parametrize("page", PAGES)
def test_every_session_in_a_document_exists(page: str) -> None:
    assert unknown_sessions(text_of(page)) == set()


def test_an_unknown_session_is_noticed() -> None:
    """Negative control."""
    assert unknown_sessions("run `nox -s everything -- --now`") == {"everything"}


def unknown_options(text: str) -> set[str]:
    """Options after `nox -s bench|site|check|repro --` that the verb does not have."""
    verbs = {"bench": "run", "site": "site", "check": "check", "repro": "repro"}
    found: set[str] = set()
    for words in commands(text, "nox"):
        if "-s" not in words or "--" not in words:
            continue
        session = words[words.index("-s") + 1]
        if session in verbs:
            given = {w.split("=")[0] for w in words[words.index("--") + 1 :] if w.startswith("--")}
            found |= given - verb_options(verbs[session])
    for words in commands(text, "attnbench"):
        if len(words) > 1 and words[1] in main.commands:
            given = {w.split("=")[0] for w in words[2:] if w.startswith("--")}
            found |= given - verb_options(words[1])
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_option_in_a_document_exists(page: str) -> None:
    assert unknown_options(text_of(page)) == set()


def test_an_unknown_option_is_noticed() -> None:
    """Negative control."""
    assert unknown_options("    nox -s bench -- --plan smoke --speed 3") == {"--speed"}
    assert unknown_options("`attnbench site --colour blue`") == {"--colour"}


def idle_patterns(text: str) -> list[str]:
    """Patterns after `nox -s bench -- ... --only` that match no case of their plan.

    What the examples of CONTRIBUTING.md add, and words in capitals, are left out.
    """
    added = {Path(path).stem.removesuffix("_inplace") for path in examples()}
    idle: list[str] = []
    for line in re.findall(r"^ {4,}(nox -s bench -- .*)$", text, re.M):
        words = shlex.split(line, comments=True)
        if "--only" not in words:
            continue
        context = main.commands["run"].make_context("run", words[4:])
        plan_name, device = context.params["plan_name"], context.params["device"] or "cpu"
        for word in context.params["only"].split():
            if word.partition("/")[0] in added or word.isupper() or plan_name in added:
                continue
            try:
                refuse_idle(load_plan(plan_name, everything(device, None, word)), word)
            except ValueError:
                idle.append(word)
    return idle


@pytest.mark.parametrize("page", PAGES)
def test_every_pattern_of_cases_in_a_document_matches_some(page: str) -> None:
    assert idle_patterns(text_of(page)) == []


def test_a_pattern_that_matches_nothing_is_noticed() -> None:
    """Negative control: SOFT has no backend of that name."""
    text = "    nox -s bench -- --only 'inline* soft/sdpa NAME'   # some cases\n"
    assert idle_patterns(text) == ["soft/sdpa"]


def unknown_verbs(text: str) -> set[str]:
    return {w[1] for w in commands(text, "attnbench") if len(w) > 1 and w[1][0] != "-"} - set(
        main.commands
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_verb_in_a_document_exists(page: str) -> None:
    assert unknown_verbs(text_of(page)) == set()


def test_an_unknown_verb_is_noticed() -> None:
    """Negative control."""
    assert unknown_verbs("`attnbench celebrate`") == {"celebrate"}


def missing_files(text: str) -> list[str]:
    """Paths between backticks that look like files of this project and are not there."""
    shown = re.findall(r"`((?:attention_impls|bench|docs|results|site|tests)/[\w./]+)`", text)
    examples = set(re.findall(r"^`([\w/]+\.py)`:$", text, re.M))
    generated = {"site/_build", "tests/vectors/content_lambda.json"}
    return [p for p in shown if p not in examples | generated and not (ROOT / p).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_in_a_document_exists(page: str) -> None:
    assert missing_files(text_of(page)) == []


def test_a_missing_path_is_noticed() -> None:
    """Negative control."""
    assert missing_files("see `bench/nowhere.py` and `bench/plan.py`") == ["bench/nowhere.py"]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_resolves(page: str) -> None:
    assert broken_links(page, text_of(page)) == []


def test_a_broken_link_is_noticed() -> None:
    """Negative control, file and fragment."""
    text = "[a](docs/nowhere.md) [b](docs/glossary.md#nothing) [c](docs/glossary.md#glossary)"
    assert broken_links("README.md", text) == ["docs/nowhere.md", "docs/glossary.md#nothing"]


# The glossary -------------------------------------------------------------------------------------


def glossary() -> dict[str, str]:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]*\|$", text_of("docs/glossary.md"), re.M)
    return {term.strip(): meaning.strip() for term, meaning in rows[2:]}


@pytest.mark.parametrize(
    "term",
    [
        "variant", "reference", "backend", "spec", "options", "parameters", "shape", "grid",
        "resolution", "tokens", "channels", "heads", "head_dim", "landmarks", "feature map",
        "kernel", "case", "plan", "protocol", "round", "measurement", "outcome", "record", "run",
        "environment", "latency", "throughput", "peak memory", "FLOPs", "MACs", "accuracy", "stale",
        "refused",
    ],
)  # fmt: skip
def test_every_word_of_the_project_is_in_the_glossary(term: str) -> None:
    assert glossary()[term]


@pytest.mark.parametrize("term", sorted(glossary()))
def test_every_term_is_used_outside_the_glossary(term: str) -> None:
    """A term that nobody uses is a second word for something."""
    others = "\n".join(text_of(page) for page in PAGES if page != "docs/glossary.md")
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("attention_impls", "bench", "site/leaderboard")
        for path in (ROOT / folder).rglob("*.py")
    )
    word = re.escape(term).replace(r",\ ", r"|").replace(r"\ ", r"[\s_]")
    assert re.search(rf"\b(?:{word})s?\b", others + sources)


def test_no_two_rows_explain_one_term() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", text_of("docs/glossary.md"), re.M)
    assert len(rows) == len(set(rows))


# Decisions, changelog, citation, workflows --------------------------------------------------------


ADRS = sorted((ROOT / "docs" / "adr").glob("0*.md"))


@pytest.mark.parametrize("path", ADRS, ids=lambda p: p.stem)
def test_a_decision_has_all_parts_and_is_listed(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.match(rf"# {path.stem[:4]}\. \S", text)
    assert re.findall(r"^## (.*)$", text, re.M) == [
        "Context", "Decision", "Refused", "Consequences",
    ]  # fmt: skip
    assert f"({path.name})" in text_of("docs/adr/README.md")


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(p.stem[:4]) for p in ADRS] == list(range(1, len(ADRS) + 1))


def test_the_changelog_says_what_stays_comparable() -> None:
    from bench.model import PROTOCOL_VERSION, SCHEMA

    sections = re.split(r"^## ", text_of("CHANGELOG.md"), flags=re.M)[1:]
    assert sections
    assert all("### Comparability" in section for section in sections)
    assert f"`protocol.version` {PROTOCOL_VERSION}" in text_of("CHANGELOG.md")
    assert f"`schema` {SCHEMA}" in text_of("CHANGELOG.md")


def test_versions_and_licences_agree() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {table['project']['version']}\n" in citation
    assert f"\nlicense: {table['project']['license']}\n" in citation
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    for key in ("cff-version: 1.2.0", "message:", "title:", "authors:", "type: software"):
        assert re.search(rf"^{key}", citation, re.M), key


def test_everything_that_is_installed_is_locked() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*table["project"]["dependencies"], *chain(*table["dependency-groups"].values())]
    locked = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {line.split("==")[0].lower() for line in locked.splitlines() if "==" in line}
    names = {re.split(r"[\[<>=! ]", line)[0].lower() for line in wanted}
    assert names - pins == set()
    assert "\ntorch==2.13.0\n" in locked


def test_plans_are_names_in_a_folder() -> None:
    assert set(plan_names()) == set(names_in(ROOT / "bench" / "plans"))
