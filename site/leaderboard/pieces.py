"""What stands inside a line: texts, links, names, badges and small drawings."""

from dataclasses import dataclass
from typing import ClassVar, Literal


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
class Clauses:
    """Parts of a long sentence, one under the other."""

    kind: ClassVar[str] = "clauses"
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Badge:
    """One word about a row that must not be overlooked."""

    kind: ClassVar[str] = "badge"
    text: str
    tone: Literal["plain", "exact", "approximate", "own", "warning", "failure"]
    help: str
    """What the word means."""
    path: str | None = None
    """Where more is said."""


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
    str | Link | External | Code | Strong | Muted | Clauses | Badge | VariantName | Strip | State
    | Ticks
)  # fmt: skip
Inline = tuple[Piece, ...]


def prose(text: str) -> Inline:
    """Return running text; what stands between backticks is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return (text,)
    return tuple(Code(part) if n % 2 else part for n, part in enumerate(parts) if part)
