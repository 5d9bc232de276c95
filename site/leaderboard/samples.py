"""The samples of a result, round by round, and every number that follows from them."""

from collections.abc import Iterator, Sequence
from math import log

from bench.table import Recorded
from leaderboard.blocks import Block
from leaderboard.format import MISSING, count_of, known_quantity, measure, whole
from leaderboard.pieces import Ticks
from leaderboard.results import Result, View
from leaderboard.tables import Cell, Head, Row, Table


def samples_of(result: Result, found: Recorded, id_: str) -> Iterator[Block]:
    """Yield the samples of latency on one axis, a row a round."""
    rounds = found.rounds["latency"]
    everything = [s for samples in rounds for s in samples if s > 0]
    low, high = log(min(everything)), log(max(everything))

    def place(value: float) -> float:
        return 0.5 if high == low or value <= 0 else (log(value) - low) / (high - low)

    rows: list[Row] = []
    for number, samples in enumerate(rounds, start=1):
        ordered = sorted(samples)
        middle = _median(ordered)
        at = tuple(place(s) for s in samples[:_MOST_TICKS])
        rows.append(
            Row(
                (
                    Cell((str(number),), number),
                    Cell((measure("s", middle),), middle),
                    Cell((Ticks(result.variant, at, place(middle)),)),
                    Cell((f"{measure('s', ordered[0])} to {measure('s', ordered[-1])}",)),
                    Cell((whole(len(samples)),), len(samples)),
                )
            )
        )
    yield Table(
        id=f"{id_}-rounds",
        caption="Samples, round by round",
        heads=(
            Head(title="Round"),
            Head(title="Median", number=True),
            Head(title="Samples, on one axis", help="Logarithmic; the tall mark is the median."),
            Head(title="Smallest to largest", secondary=True),
            Head(title="Samples", number=True, secondary=True),
        ),
        rows=tuple(rows),
        empty="No sample.",
        show_caption=False,
        sortable=False,
    )


def _median(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


NUMBER_HEADS = ("Metric", "Value", "95 % interval", "10 % to 90 % of samples", "Samples")


def numbers_of(view: View, result: Result) -> Iterator[tuple[str, ...]]:
    """Yield a row of NUMBER_HEADS for each metric, those that are not known with the reason."""
    for metric, number in result.numbers.items():
        column = view.columns.get(metric)
        title = metric if column is None else column.title
        quantity = known_quantity(None if column is None else column.unit)
        spread = samples = MISSING
        if number.samples > 1 and number.p10 is not None and number.p90 is not None:
            spread = f"{measure(quantity, number.p10)} to {measure(quantity, number.p90)}"
            samples = f"{whole(number.samples)} in {count_of(number.rounds, 'round')}"
        ends = MISSING
        if number.low is not None and number.high is not None:
            ends = f"{measure(quantity, number.low)} to {measure(quantity, number.high)}"
        yield title, measure(quantity, number.value), ends, spread, samples
    for metric, reason in result.unavailable.items():
        column = view.columns.get(metric)
        yield (metric if column is None else column.title), reason, MISSING, MISSING, MISSING


_MOST_TICKS = 120
"""Samples of a round that are drawn; the file has all."""
