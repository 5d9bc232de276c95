"""Built pages as people read them: tables, sentences, and what the last digit of a number says."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

TIMES = "\N{MULTIPLICATION SIGN}"
_FACTORS = {
    "": 1, "s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "%": 1e-2, TIMES: 1, "J": 1, "mJ": 1e-3,
    "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "images/s": 1, "FLOPs/B": 1,
    "points": 1e-2, "M": 1e6,
}  # fmt: skip
for _unit in ("FLOPs", "MACs", "FLOP/s", "B/s", "op/s", " tokens/s"):
    _FACTORS |= {f"{p}{_unit}".strip(): f for p, f in
                 (("", 1), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))}  # fmt: skip
_BEFORE = "~>\N{PLUS-MINUS SIGN}"
_NUMBER = r"[\N{MINUS SIGN}-]?\d[\d,]*(?:\.\d+)?"
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_VOID = {"br", "hr", "img", "input", "link", "meta", "line", "use", "path", "rect", "circle"}


@dataclass
class TableCell:
    text: str = ""
    unit: str = ""
    order: str | None = None
    classes: tuple[str, ...] = ()
    links: list[str] = field(default_factory=list)
    head: bool = False


@dataclass
class PageTable:
    heads: list[TableCell] = field(default_factory=list)
    rows: list[list[TableCell]] = field(default_factory=list)
    panel: str | None = None

    def column(self, title: str) -> int:
        return [head.text for head in self.heads].index(title)


class BuiltPage(HTMLParser):
    """One document: its tables by id (those without one by number), and its sentences by panel."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, PageTable] = {}
        self.sentences: list[tuple[str | None, str, str]] = []
        self._open: list[str] = []
        self._panel: str | None = None
        self._table: PageTable | None = None
        self._row: list[TableCell] = []
        self._cell: TableCell | None = None
        self._unit = False
        self._words: list[str] | None = None
        self._class = ""
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        classes = tuple(found.get("class", "").split())
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "section" and "panel" in classes:
            self._panel = found["id"]
        elif tag == "table":
            self._table = PageTable(panel=self._panel)
            self.tables[found.get("id", f"#{len(self.tables)}")] = self._table
        elif self._table is not None and tag in ("td", "th"):
            self._cell = TableCell(
                order=found.get("data-order"), classes=classes, head=found.get("scope") == "col"
            )
        elif self._cell is not None and tag == "a":
            self._cell.links.append(found.get("href", ""))
        elif self._cell is not None and tag == "span":
            self._unit = self._unit or "unit" in classes
        elif self._table is None and tag in ("p", "li", "h2", "figcaption", "pre", "dd", "dt"):
            self._words, self._class = [], " ".join((tag, *classes))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if tag == "span":
            self._unit = False
        elif tag in ("td", "th") and self._cell is not None:
            self._cell.text, self._cell.unit = plain(self._cell.text), plain(self._cell.unit)
            self._row.append(self._cell)
            self._cell = None
        elif tag == "tr" and self._table is not None:
            if self._row and all(cell.head for cell in self._row):
                self._table.heads = self._row
            else:
                self._table.rows.append(self._row)
            self._row = []
        elif tag == "table":
            self._table = None
        elif self._words is not None and tag == self._class.split()[0]:
            self.sentences.append((self._panel, self._class, plain("".join(self._words))))
            self._words = None
        elif tag == "section" and "section" not in self._open:
            self._panel = None

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            return
        if self._cell is not None:
            if self._unit:
                self._cell.unit += data
            else:
                self._cell.text += data
        elif self._words is not None:
            self._words.append(data)

    @property
    def text(self) -> str:
        return " ".join(words for _, _, words in self.sentences)


def plain(text: str) -> str:
    return " ".join(text.split())


def printed(text: str, unit: str | None = None) -> tuple[float, float]:
    """Return a printed number in base units, and half of its last digit.

    Raises:
        ValueError: no number stands there, or one with an unknown unit.
    """
    found = re.fullmatch(rf"(?:[{_BEFORE}] ?)?({_NUMBER})\s*(.*)", plain(text))
    if found is None:
        raise ValueError(f"no number: {text!r}")
    number, words = found[1].replace(",", "").replace("\N{MINUS SIGN}", "-"), found[2]
    power = re.fullmatch(rf"{TIMES} 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", words)
    unit = words if unit is None else unit
    if power is None and unit not in _FACTORS:
        raise ValueError(f"no unit: {text!r}, {unit!r}")
    factor = 10.0 ** int(power[1].translate(_RAISED)) if power else float(_FACTORS[unit])
    decimals = len(number.partition(".")[2])
    last = 10.0**-decimals
    if not decimals and len(digits := number.lstrip("-0")) > 3:
        # three digits are printed of large numbers: 5,390 may be 5,394.6
        last = 10.0 ** min(len(digits) - len(digits.rstrip("0")), len(digits) - 3)
    return float(number) * factor, 0.5 * last * factor


def says(text: str, value: float, unit: str | None = None) -> bool:
    """Whether a printed number is `value`, rounded once."""
    try:
        number, half = printed(text, unit)
    except ValueError:
        return False
    return abs(number - value) <= half * (1 + 1e-6) + 1e-9 * abs(value)
