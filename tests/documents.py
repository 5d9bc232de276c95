"""The project's own documents."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("results/*.md"))
    )
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Words of every call of `program` in code: indented lines, and text between backticks."""
    indented = re.findall(r"^ {4,}(\S.*)$", text, re.M)
    quoted = re.findall(r"`([^`\n]+)`", text)
    for line in (*indented, *quoted):
        for part in line.split("  #")[0].split("&&"):
            words = part.split()
            if words and words[0].rsplit("/", 1)[-1] == program:
                yield words


def anchors(text: str) -> set[str]:
    """Fragments that headings of a document can be linked by."""
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def links(text: str) -> list[str]:
    """Targets of every link and picture."""
    return re.findall(r"\]\(([^)\s]+)\)", text)


def broken_links(page: str, text: str) -> list[str]:
    """Targets inside the project that do not exist."""
    broken: list[str] = []
    for target in links(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (
            fragment and fragment not in anchors(file.read_text(encoding="utf-8"))
        ):
            broken.append(target)
    return broken
