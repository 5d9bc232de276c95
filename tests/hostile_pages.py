"""Strings that want to become markup, and what finds them in built pages."""

import csv
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    '"><svg/onload=alert(4)>',
    "' autofocus onfocus=alert(5) x='",
    "</textarea><b>bold</b>",
    "{{ 'zq' ~ '9x7' }}{% for x in y %}",
    "<!--<script>-->alert(6)",
    "&lt;script&gt;alert(7)&lt;/script&gt;<i>",
    "\u202e\u0000<iframe srcdoc='<script>alert(8)</script>'>",
    "]]><math><mtext></form><form><mglyph><style></math><img src onerror=alert(9)>",
)
FORMULAS = ("=1+1", "+1", "-1+cmd", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("https://example.org")')
"""What a spreadsheet would run."""
_ISLAND = re.compile(r'<script type="application/json"[^>]*>(.*?)</script>', re.DOTALL)
ALLOWED_TAGS = frozenset((
    "html", "head", "meta", "title", "link", "script", "body", "a", "svg", "symbol", "path",
    "line", "use", "circle", "header", "div", "nav", "ul", "li", "details", "summary", "button",
    "main", "p", "h1", "h2", "h3", "h4", "section", "form", "label", "span", "select", "input",
    "table", "caption", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "pre", "code",
    "figure", "figcaption", "footer", "strong", "math", "mrow", "mi", "mn", "mo", "ms", "mtext",
    "mspace", "mfrac", "msqrt", "mroot", "mstyle", "msub", "msup", "msubsup", "munder", "mover",
    "munderover", "mtable", "mtr", "mtd", "mpadded", "mphantom",
    "g", "rect", "text",
))  # fmt: skip


class Faults(HTMLParser):
    """Markup that our templates never write."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ALLOWED_TAGS:
            self.found.append(f"<{tag}>")
        if tag == "script" and not any(
            name == "src" or (name == "type" and value == "application/json")
            for name, value in attrs
        ):
            self.found.append("inline script")
        for name, value in attrs:
            if name.startswith("on") or name in ("srcdoc", "style", "formaction", "autofocus"):
                self.found.append(name)
            if name in ("href", "src") and re.match(r"\s*(javascript|data|vbscript):", value or ""):
                self.found.append(f"{name}={value}")


def faults_of_site(out: Path) -> Iterator[str]:
    """Everything in a built site that a contributor's text could have got in unescaped."""
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if name.startswith(("static/", "data/results/")) and not name.endswith(".html"):
            continue  # ours, and the files of results/ as they are, which no browser renders
        if path.suffix in (".html", ".csv", ".json", ".xml", ".atom"):
            for fault in faults_of_text(path.suffix, path.read_bytes().decode("utf-8")):
                yield f"{name}: {fault}"


def faults_of_text(suffix: str, text: str) -> Iterator[str]:
    """The same for one file, by its kind."""
    if control := re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text):
        yield f"control character {control[0]!r}"
    match suffix:
        case ".html":
            yield from Faults(text).found
            yield from (f"raw {p!r}" for p in PAYLOADS if "<" in p and p in text)
            if "zq9x7" in text:
                yield "a template was evaluated"
            for block in re.findall(
                r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S
            ):
                json.loads(block)
                if "<" in block:
                    yield "a script's data could end it"
        case ".csv":
            for row in csv.reader(io.StringIO(text, newline="")):
                yield from (f"formula {c!r}" for c in row if is_formula(c))
        case ".json":
            json.loads(text)
        case _:
            ElementTree.fromstring(text)


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet would run a cell; plain numbers are no formulas."""
    return cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not re.fullmatch(
        r"[+-]?[\d.]+(e[+-]?\d+)?", cell
    )
