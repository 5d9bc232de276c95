"""Networks of papers, number by number: printed, counted in the published code, and here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.table import BackboneEntry, ReportedNumber
from leaderboard.results import View

READING_MACS = 0.1e9
"""How exactly a number of multiply-adds can be read off a plot."""
NEAR = 0.005
"""Counts of multiply-adds that differ by less, relatively, agree."""
_MOST_DECIMALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One quantity of one network in base units; None: nobody says it."""

    printed: ReportedNumber | None
    total: float | None
    """The published code, with what fvcore counts beside matrix products and convolutions."""
    code: float | None
    """The published code, counted as here."""
    here: float
    print_agrees: bool | None
    """The print is `total` or `code`, rounded; None: nothing to compare with."""
    code_agrees: bool | None
    """`code` is `here`: parameters to the last one, multiply-adds within NEAR."""

    @property
    def agrees(self) -> bool:
        """Nothing contradicts anything."""
        return self.print_agrees is not False and self.code_agrees is not False

    @property
    def distance(self) -> float:
        """Largest relative difference from what is here."""
        others = (self.printed.value if self.printed else None, self.total, self.code)
        return max((abs(math.log(value / self.here)) for value in others if value), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedNetwork:
    """One network of a paper beside the numbers that its authors give."""

    entry: BackboneEntry
    numbers: Mapping[str, ReportedNumber]
    """By quantity."""
    parameters: Compared
    macs: Compared

    @property
    def agrees(self) -> bool:
        """Nothing contradicts anything."""
        return self.parameters.agrees and self.macs.agrees


def checked_networks(view: View) -> tuple[CheckedNetwork, ...]:
    """Return every network that its authors give a number for; old papers and small ones first."""
    numbers = numbers_by_model(view)
    found: list[CheckedNetwork] = []
    for entry in view.table.backbones:
        given = numbers.get((entry.variant, entry.title, entry.resolution_px))
        if given is not None:
            found.append(_checked(entry, given))
    return tuple(sorted(found, key=_order))


def numbers_by_model(view: View) -> Mapping[tuple[str, str, int], Mapping[str, ReportedNumber]]:
    """Return what authors report by (variant, model, side), then by quantity."""
    found: dict[tuple[str, str, int], dict[str, ReportedNumber]] = {}
    for number in view.table.reported:
        key = (number.variant, number.model, number.resolution_px)
        found.setdefault(key, {})[number.quantity] = number
    return found


def _order(one: CheckedNetwork) -> tuple[object, ...]:
    paper = one.entry.paper
    return (paper.year, paper.title, one.entry.family, one.entry.parameters, one.entry.id)


def _checked(entry: BackboneEntry, numbers: Mapping[str, ReportedNumber]) -> CheckedNetwork:
    parameters, total, code = (
        numbers[name].value if name in numbers else None
        for name in ("code_parameters", "code_macs", "code_contractions")
    )
    return CheckedNetwork(
        entry=entry,
        numbers=numbers,
        parameters=_compared(
            numbers.get("parameters"), parameters, parameters, entry.parameters, 1e6, near=0.0
        ),
        macs=_compared(numbers.get("macs"), total, code, entry.macs, 1e9, near=NEAR),
    )


def _compared(
    printed: ReportedNumber | None,
    total: float | None,
    code: float | None,
    here: float,
    unit: float,
    *,
    near: float,
) -> Compared:
    return Compared(
        printed=printed,
        total=total,
        code=code,
        here=here,
        print_agrees=_print_agrees(printed, [n for n in (total, code) if n is not None], unit),
        code_agrees=None if code is None else abs(here - code) <= near * code,
    )


def _print_agrees(
    printed: ReportedNumber | None, counts: Sequence[float], unit: float
) -> bool | None:
    """Whether a print is one of the ways to count the published code, rounded."""
    if printed is None or not counts:
        return None
    return any(rounds_to(printed, exact, unit) for exact in counts)


def rounds_to(printed: ReportedNumber, exact: float, unit: float) -> bool:
    """Whether `exact` can stand behind a printed number of `unit`s with few decimals.

    How many decimals were printed is read off the number, so that 5.0 allows as much as 5; what was
    read off a plot may be wrong by READING_MACS.
    """
    shown = printed.value / unit
    decimals = next(
        (n for n in range(_MOST_DECIMALS) if math.isclose(round(shown, n), shown, rel_tol=1e-9)),
        _MOST_DECIMALS,
    )
    room = 0.5 * 10.0**-decimals * unit * (1 + 1e-6)
    return abs(printed.value - exact) <= max(room, READING_MACS if printed.from_plot else 0.0)
