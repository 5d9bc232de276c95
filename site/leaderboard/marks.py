"""One colour, dash and marker for each variant: the same on every page, now and next year.

Variants of `REGISTERED` keep their place for ever (append only), and no other name can take it:
names outside get their mark from their own digest, out of marks that no registered place has. Where
two such names fall on one mark, the one that was measured first keeps it, so that results added
later move nothing that is there.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

REGISTERED = (
    "softmax", "linear_relu", "linear_elu", "inline", "focused_linear", "soft", "soft_norm",
    "linformer", "performer", "nystromformer",
    "spatial_reduction", "spatial_reduction_linear", "window_shifted", "cross_shaped_window",
    "agent", "efficient", "hydra", "linear_angular", "lite_mla", "mila", "polaformer", "nala",
    "rala", "mala", "slab", "cross_covariance", "sima", "flow", "cosformer", "separable",
    "vitality", "neighborhood", "hilo", "slide", "bilevel_routing", "deformable", "sigmoid",
    "circulant", "vittt", "skyformer", "random_feature", "lara", "eva", "luna", "reformer",
    "bigbird", "sliding_window", "probsparse", "yoso", "hedgehog", "taylor", "differential",
    "grouped_query", "fnet", "synthesizer", "aft_simple", "lion", "gated_linear", "gated_delta",
    "mamba2", "retention", "linear_exp", "additive_swift",
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


def _place(colour: int, turn: int, shift: int = 0) -> Mark:
    """Return the mark of a colour in its `turn`-th use: another marker each time, ten times."""
    light, dark = COLOURS[colour]
    dash = DASHES[(colour + turn + shift) % len(DASHES)]
    return Mark(light, dark, dash, SYMBOLS[(colour + 3 * turn) % len(SYMBOLS)])


_HUES = len(COLOURS) - 1
_PLACES = len(COLOURS) + _HUES * (len(SYMBOLS) - 1)
"""Registered places: each has a pair of colour and marker of its own."""
_SPACE = _HUES * len(SYMBOLS) * (len(DASHES) - 1)
"""Marks for other names: a registered pair with another dash."""


def _registered(number: int) -> Mark:
    """Neighbours differ in colour, and in marker too; only the baseline is without a hue."""
    if number < len(COLOURS):
        return _place(number, 0)
    turn, colour = divmod(number - len(COLOURS), _HUES)
    return _place(1 + colour, 1 + turn)


def _unregistered(number: int) -> Mark:
    rest, colour = divmod(number, _HUES)
    shift, turn = divmod(rest, len(SYMBOLS))
    return _place(1 + colour, turn, 1 + shift)


def marks(variants: Iterable[str], measured: Sequence[str] = ()) -> Mapping[str, Mark]:
    """Return the mark of each variant; all are different.

    Args:
        variants: names of the tree and of the results.
        measured: names in the order of their first results.

    Raises:
        ValueError: more variants than there are marks.
    """
    if len(REGISTERED) > _PLACES:
        raise ValueError(f"{len(REGISTERED)} variants are registered, places are {_PLACES}")
    chosen = {name: _registered(number) for number, name in enumerate(REGISTERED)}
    taken: set[Mark] = set()
    others = dict.fromkeys((*measured, *sorted(variants)))
    for name in others:
        if name in chosen:
            continue
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        candidates = (_unregistered((start + step) % _SPACE) for step in range(_SPACE))
        mark = next((m for m in candidates if m not in taken), None)
        if mark is None:
            raise ValueError(f"{len(taken)} variants have a mark, none is left for {name!r}")
        chosen[name] = mark
        taken.add(mark)
    return {name: chosen[name] for name in sorted(chosen)}
