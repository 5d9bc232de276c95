"""What a page is made of. Pages build these values; the templates are the only place with HTML."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from leaderboard.drawings import Charts, Figure, Gallery
from leaderboard.pieces import Inline, Link
from leaderboard.tables import Matrix, Table

# Text ---------------------------------------------------------------------------------------------


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
    tone: Literal["plain", "finding"] = "plain"


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
