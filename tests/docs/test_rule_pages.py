"""Every rule has a page that says what, why, what is allowed and what to do."""

from pathlib import Path

import pytest

from bench.rules import RUN_RULES, TREE_RULES

FOLDER = Path(__file__).parents[2] / "docs" / "rules"
RULES = {rule.id: rule for rule in (*RUN_RULES, *TREE_RULES)}
SECTIONS = ("What it finds", "Why", "Allowed", "What to do")


def faults(page: str, id_: str) -> list[str]:
    """What is wrong with the page of rule `id_`."""
    rule = RULES[id_]
    head, *parts = page.split("\n## ")
    found = [] if head.startswith(f"# {id_}: {rule.help}\n") else ["title"]
    found += [] if f"\nSeverity {rule.severity}: " in head else ["severity"]
    written = {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}
    found += [] if tuple(written) == SECTIONS else ["sections"]
    return found + [title for title, text in written.items() if not text.endswith(".")]


@pytest.mark.parametrize("id_", sorted(RULES))
def test_a_rule_has_a_complete_page(id_: str) -> None:
    assert faults((FOLDER / f"{id_}.md").read_text(encoding="utf-8"), id_) == []


def test_every_page_has_its_rule_and_stands_in_the_index() -> None:
    pages = {path.stem for path in FOLDER.glob("R[0-9]*.md")}
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert pages == set(RULES)
    for id_, rule in RULES.items():
        assert f"| [{id_}]({id_}.md) | {rule.severity} | {rule.help} |" in index


def test_a_wrong_page_is_noticed() -> None:
    page = (FOLDER / "R404.md").read_text(encoding="utf-8")
    assert faults(page.replace("# R404", "# R405"), "R404") == ["title"]
    assert faults(page.replace("Severity error", "Severity flag"), "R404") == ["severity"]
    assert faults(page.replace("## Why", "## How"), "R404") == ["sections"]
    assert faults(page.split("## What to do")[0] + "## What to do\n", "R404") == ["What to do"]
