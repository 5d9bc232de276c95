"""What a page is made of. Pages build these values; the templates are the only place with HTML."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

# Inside a line ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a page or file of the site."""

    kind: ClassVar[str] = "link"
    text: str
    path: str
    """Path from the root of the site, with an optional #fragment."""
    download: bool = False


@dataclass(frozen=True, slots=True)
class External:
    """A link to another site; anything but http(s) is printed as plain text."""

    kind: ClassVar[str] = "external"
    text: str
    url: str


@dataclass(frozen=True, slots=True)
class Code:
    """A name or command."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True, slots=True)
class Strong:
    """The words that carry the sentence."""

    kind: ClassVar[str] = "strong"
    text: str


@dataclass(frozen=True, slots=True)
class Muted:
    """Words of the second rank."""

    kind: ClassVar[str] = "muted"
    text: str


@dataclass(frozen=True, slots=True)
class Badge:
    """One word about a row that must not be overlooked."""

    kind: ClassVar[str] = "badge"
    text: str
    tone: Literal["plain", "exact", "approximate", "own", "warning", "failure"]
    help: str
    """What the word means."""


@dataclass(frozen=True, slots=True)
class VariantName:
    """A variant with its mark, linked to its page."""

    kind: ClassVar[str] = "variant"
    variant: str
    text: str
    detail: str | None = None
    """Backend and options."""


@dataclass(frozen=True, slots=True)
class Strip:
    """A value with its interval on an axis that all rows of a table share."""

    kind: ClassVar[str] = "strip"
    variant: str
    low: float
    """Left end of the interval, 0..1 along the axis."""
    value: float
    """Position of the value, 0..1."""
    high: float
    """Right end, 0..1."""


@dataclass(frozen=True, slots=True)
class State:
    """What became of one cell of a map: a letter, its word, and the way to its result."""

    kind: ClassVar[str] = "state"
    letter: str
    word: str
    tone: str
    """`ok`, `absent`, or the kind of failure."""
    path: str | None


@dataclass(frozen=True, slots=True)
class Ticks:
    """The samples of one round on an axis that all rounds of a case share."""

    kind: ClassVar[str] = "ticks"
    variant: str
    at: tuple[float, ...]
    """Positions, 0..1 along the axis."""
    middle: float
    """Position of their median."""


Piece = (
    str | Link | External | Code | Strong | Muted | Badge | VariantName | Strip | State | Ticks
)  # fmt: skip
Inline = tuple[Piece, ...]


def prose(text: str) -> Inline:
    """Return running text; what stands between backticks is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return (text,)
    return tuple(Code(part) if n % 2 else part for n, part in enumerate(parts) if part)


# Blocks -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    kind: ClassVar[str] = "paragraph"
    text: Inline
    tone: Literal["plain", "lead", "small", "finding"] = "plain"


@dataclass(frozen=True, slots=True)
class Bullets:
    """Short items of equal rank."""

    kind: ClassVar[str] = "bullets"
    items: tuple[Inline, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"
    pairs: tuple[tuple[str, Inline], ...]
    wide: bool = False
    """Sentences, one under the other."""


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Code or commands to copy."""

    kind: ClassVar[str] = "codeblock"
    text: str


@dataclass(frozen=True, slots=True)
class Element:
    """One MathML element."""

    tag: str
    attributes: tuple[tuple[str, str], ...]
    children: "tuple[Element | str, ...]"


@dataclass(frozen=True, slots=True)
class Formula:
    """Mathematics, with its LaTeX."""

    kind: ClassVar[str] = "formula"
    latex: str
    lines: tuple[Element, ...]
    """MathML; empty where the LaTeX could not be converted: then the LaTeX is shown."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the reader must know before the numbers."""

    kind: ClassVar[str] = "notice"
    text: Inline
    tone: Literal["plain", "warning"] = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Head of a table column."""

    title: str
    unit: str | None = None
    """Second line of the head."""
    help: str | None = None
    number: bool = False
    """Right-aligned and sorted as a number, missing values last in both directions."""
    ordered: bool = False
    """Sorted as a number though it reads as text."""
    sortable: bool = True
    secondary: bool = False
    """Left out on phones; the row's details have it."""
    shape: Literal[
        "rank", "name", "number", "interval", "strip", "details", "state", "text", "trust", "free"
    ] = "free"
    """Width of the column in tables that align with each other."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell."""

    content: Inline
    order: str | float | None = None
    """What it sorts by; None: by its text, and for numbers: last."""
    tone: Literal["plain", "failure", "muted", "best", "state"] = "plain"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; the first cell that is not a rank names it."""

    cells: tuple[Cell, ...]
    tone: Literal["plain", "baseline", "failed", "stale"] = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, complete without scripts."""

    kind: ClassVar[str] = "table"
    id: str
    caption: str
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    empty: str
    """What stands in place of a table without rows."""
    name_column: int = 0
    """Which column names the row."""
    show_caption: bool = True
    sortable: bool = True
    aligned: bool = False
    """Fixed column widths, so that tables under each other align."""
    sticky: bool = False
    """The first column stays in view while the others scroll."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One line of a figure's key."""

    variant: str
    name: str
    """Stable name in addresses, unique within the figure."""
    text: str
    series: tuple[int, ...]
    """Numbers of the traces that it switches."""
    shown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with its finding, its key, its data as a table and as a file."""

    kind: ClassVar[str] = "figure"
    id: str
    title: str
    finding: str
    """One sentence, computed from the data."""
    drawing: Mapping[str, Any]
    """What the script draws; colours are names of style variables."""
    key: tuple[KeyEntry, ...]
    data: Table
    csv_path: str
    """Path of the data file from the root of the site."""
    csv_text: str
    """Contents of the data file."""


@dataclass(frozen=True, slots=True)
class ChartBar:
    """An upright interval."""

    x: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartLine:
    """One line of a chart as geometry."""

    colour_class: str
    dash_class: str
    symbol: str
    path: str
    """SVG path data; empty: points only."""
    dots: tuple[tuple[float, float], ...]
    bars: tuple[ChartBar, ...]
    faint: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines as geometry: complete without scripts."""

    title: str
    description: str
    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float
    x_ticks: tuple[tuple[float, str], ...]
    """(position, text)."""
    y_ticks: tuple[tuple[float, str], ...]
    x_title: str
    y_title: str
    lines: tuple[ChartLine, ...]
    level: tuple[float, str] | None
    """A horizontal line to compare with, and what it is."""


@dataclass(frozen=True, slots=True)
class ChartKey:
    """What one look means."""

    text: str
    colour_class: str
    dash_class: str
    symbol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """Charts beside each other, with one key and their data as a file."""

    kind: ClassVar[str] = "charts"
    id: str
    title: str
    note: str
    charts: tuple[Chart, ...]
    key: tuple[ChartKey, ...]
    small: bool
    csv_path: str
    """Path of the data file from the root of the site."""
    csv_text: str
    """Contents of the data file."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One entry of a matrix."""

    x: int
    y: int
    negative: bool
    strength: float
    """0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """A matrix as squares."""

    title: str
    width: int
    height: int
    tiles: tuple[Tile, ...]
    marked: tuple[int, int] | None
    """(column, row) that it is about."""
    range_text: str
    """Least and largest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRow:
    """Pictures that belong together, and whose they are."""

    name: Inline
    pictures: tuple[Tiles, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Matrices as pictures, a row of them for each owner."""

    kind: ClassVar[str] = "gallery"
    id: str
    title: str
    note: str
    rows: tuple[TileRow, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of a page."""

    kind: ClassVar[str] = "section"
    id: str
    title: str
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True)
class Subsection:
    """A titled part of a section or panel."""

    kind: ClassVar[str] = "subsection"
    id: str
    title: str
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True)
class Panel:
    """One choice of every facet, and what it shows."""

    id: str
    title: str
    values: tuple[tuple[str, str], ...]
    """(stable value, label) for each facet, in the order of the facets."""
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chooser:
    """Panels of which scripts show one; without scripts all stand below each other."""

    kind: ClassVar[str] = "chooser"
    id: str
    facets: tuple[str, ...]
    """Labels."""
    panels: tuple[Panel, ...]
    filter_label: str | None = None
    """Label of a text filter over the rows of the shown panel; None: no filter."""


@dataclass(frozen=True, slots=True)
class Option:
    """One value of a facet, and the document that has it."""

    text: str
    path: str
    current: bool


@dataclass(frozen=True, slots=True)
class Facets:
    """Choices that are documents of their own: links, so that each has an address."""

    kind: ClassVar[str] = "facets"
    rows: tuple[tuple[str, tuple[Option, ...]], ...]
    """(label, options) for each facet with more than one value."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A text filter over the rows of all tables of the document; needs scripts."""

    kind: ClassVar[str] = "filter"
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Island:
    """A part that a script fills; without it, what stands inside is complete by itself."""

    kind: ClassVar[str] = "island"
    id: str
    scripts: tuple[str, ...]
    """File names under static/, in the order in which they are loaded."""
    data: Mapping[str, Any]
    blocks: "tuple[Block, ...]"
    draws: bool = False
    """The script draws figures."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A dense table of short texts: rows of strings, the first names the row."""

    kind: ClassVar[str] = "matrix"
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Cards:
    """Links with a line each."""

    kind: ClassVar[str] = "cards"
    items: tuple[tuple[Link, str], ...]


@dataclass(frozen=True, slots=True)
class Disclosure:
    """Something that is folded at first."""

    kind: ClassVar[str] = "disclosure"
    title: str
    blocks: "tuple[Block, ...]"


Block = (
    Paragraph | Bullets | Facts | CodeBlock | Formula | Notice | Table | Figure | Section
    | Subsection | Chooser | Cards | Disclosure | Facets | Filter | Island | Matrix | Charts
    | Gallery
)  # fmt: skip


# Pages --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One HTML file."""

    path: str
    """From the root of the site, e.g. `variants/softmax.html`."""
    title: str
    summary: str
    """One sentence for search engines and link previews."""
    blocks: tuple[Block, ...]
    context: str | None = None
    """Small line above the title: where one is."""
    permanent: str | None = None
    """Address that keeps showing the same, where this one shows what is current."""
