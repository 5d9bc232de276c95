"""One colour, dash and marker for each variant: the same on every page, now and next year.

Variants of `REGISTERED` keep their place for ever (append only). Any other name gets its mark from
its own digest; only where two unregistered names fall on one mark does the later name move on.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

REGISTERED = (
    "softmax", "linear_relu", "linear_elu", "inline", "focused_linear", "soft", "soft_norm",
    "linformer", "performer", "nystromformer",
)  # fmt: skip

LIGHT_SURFACE, DARK_SURFACE = "#ffffff", "#15181c"
"""Backgrounds of figures; every colour below has a contrast of at least 3 to its own."""
COLOURS = (
    ("#1d2126", "#eef0f3"),
    ("#0b62b8", "#6db3f8"),
    ("#c2410c", "#ff935f"),
    ("#0c7a55", "#4cc79a"),
    ("#8b3db0", "#cb9bef"),
    ("#946200", "#e2b13c"),
    ("#0c7c93", "#58cde0"),
    ("#c02672", "#ff8cc0"),
    ("#5f6b1f", "#b9c95c"),
    ("#7a4a32", "#d3a488"),
)
"""(light, dark) pairs; the first, without a hue, is the baseline's."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = (
    "circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon",
    "cross", "x",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mark:
    """How a variant looks in figures, keys and tables."""

    light: str
    """Colour on the light surface."""
    dark: str
    """Colour on the dark surface."""
    dash: str
    symbol: str

    @property
    def colour_class(self) -> str:
        """Style class of the colour; with `--` its style variable."""
        return f"c{COLOURS.index((self.light, self.dark))}"

    @property
    def dash_class(self) -> str:
        """Style class of the dash."""
        return f"d{DASHES.index(self.dash)}"


def _mark(number: int) -> Mark:
    """Return mark `number`; neighbours differ in colour, and in marker too."""
    light, dark = COLOURS[number % len(COLOURS)]
    turn = number // len(COLOURS)
    symbol = SYMBOLS[(number + 3 * turn) % len(SYMBOLS)]
    return Mark(light, dark, DASHES[(number + turn) % len(DASHES)], symbol)


_SPACE = len(COLOURS) * len(DASHES) * len(SYMBOLS)


def _unregistered(number: int) -> Mark:
    light, dark = COLOURS[1 + number % (len(COLOURS) - 1)]
    rest = number // (len(COLOURS) - 1)
    return Mark(light, dark, DASHES[rest % 4], SYMBOLS[rest // 4 % len(SYMBOLS)])


def marks(variants: Iterable[str]) -> Mapping[str, Mark]:
    """Return the mark of each variant; all are different.

    Raises:
        ValueError: more variants than there are marks.
    """
    chosen = {name: _mark(number) for number, name in enumerate(REGISTERED)}
    taken = set(chosen.values())
    for name in sorted(set(variants) - set(REGISTERED)):
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        candidates = (_unregistered((start + step) % _SPACE) for step in range(_SPACE))
        mark = next((m for m in candidates if m not in taken), None)
        if mark is None:
            raise ValueError(f"{len(taken)} variants have a mark, none is left for {name!r}")
        chosen[name] = mark
        taken.add(mark)
    return {name: chosen[name] for name in sorted(chosen)}


def contrast(one: str, other: str) -> float:
    """Return the WCAG contrast of two `#rrggbb` colours, 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
