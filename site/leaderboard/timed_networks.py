"""Whole networks as they were timed: each with its own attention and with softmax in its place."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from leaderboard.addresses import result_address
from leaderboard.blocks import Block, Paragraph
from leaderboard.contexts import PASSES_WORDS, slug
from leaderboard.format import Scale, count_of, measure, percent, scale_for
from leaderboard.lines import Setting
from leaderboard.pieces import Code, Inline, Link
from leaderboard.ranking import noise_floor, verdict
from leaderboard.results import Result, View
from leaderboard.standings import interval_text, name
from leaderboard.tables import Cell, Head, Row, Table

TIMED_COMMAND = "attnbench run --plan models --only 'inline_pvt_t'"
_VERDICT_HELP = (
    "Of its own attention against softmax. Undecided: intervals overlap, or the two are closer "
    "than the noise floor."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One network at one size: the fastest execution of its own attention, and of softmax."""

    backbone: str
    side_px: int
    own: Result
    softmax: Result

    @property
    def ratio(self) -> float:
        """Latency of its own attention over that of softmax."""
        return self.own.numbers["latency"].value / self.softmax.numbers["latency"].value


def timed_pairs(view: View) -> Mapping[tuple[Setting, str], tuple[Pair, ...]]:
    """Return the pairs of batch 1 by setting and passes, small sides first, then by ratio."""
    own = {entry.id: entry.variant for entry in view.table.backbones}
    best: dict[tuple[Setting, str], dict[tuple[str, int], dict[bool, Result]]] = {}
    for r in view.results:
        if (
            r.backbone is None
            or r.resolution_px is None
            or not r.passes
            or (r.batch_policy, r.options) != ("one", "")
            or r.variant not in (own.get(r.backbone), "softmax")
            or own.get(r.backbone) == "softmax"
            or not r.ranked
            or "latency" not in r.numbers
        ):
            continue
        setting = Setting(hardware_id=r.hardware_id, dtype=r.dtype or "", policy="one")
        group = best.setdefault((setting, r.passes), {})
        sides = group.setdefault((r.backbone, r.resolution_px), {})
        mine, before = r.variant != "softmax", sides.get(r.variant != "softmax")
        if before is None or r.numbers["latency"].value < before.numbers["latency"].value:
            sides[mine] = r
    found = {
        key: tuple(
            sorted(
                (
                    Pair(backbone=backbone, side_px=side, own=both[True], softmax=both[False])
                    for (backbone, side), both in group.items()
                    if len(both) == len((True, False))
                ),
                key=lambda pair: (pair.side_px, pair.ratio, pair.backbone),
            )
        )
        for key, group in best.items()
    }
    return {
        key: found[key]
        for key in sorted(found, key=lambda k: (k[0].hardware_id, k[0].dtype, k[1]))
        if found[key]
    }


def timed_networks(view: View) -> Iterator[Block]:
    """Return a table for each machine, data type and passes, or how to measure one."""
    found = timed_pairs(view)
    if not found:
        yield Paragraph(("No network was timed with both. Measure one: ", Code(TIMED_COMMAND), "."))
    for (setting, passes), pairs in found.items():
        floor = noise_floor(r for pair in pairs for r in (pair.own, pair.softmax))
        known = "not known" if floor is None else percent(floor)
        machine = view.machine_title(setting.hardware_id)
        yield Paragraph((
            (f"{machine}, {setting.dtype}, {PASSES_WORDS[passes]}, one image, "
            f"{count_of(len(pairs), 'pair')}. Of several executions of a mechanism the fastest is "
            f"shown. The noise floor is {known}. Softmax attention stands in the place of the "
            "mechanism in every block that has it."),
        ))  # fmt: skip
        yield _table(view, setting, passes, pairs, floor)


def _table(
    view: View, setting: Setting, passes: str, pairs: Iterable[Pair], floor: float | None
) -> Table:
    pairs = tuple(pairs)
    values = (r.numbers["latency"].value for pair in pairs for r in (pair.own, pair.softmax))
    scale = scale_for("s", values)
    return Table(
        id=slug(f"timed-networks-{setting.hardware_id}-{setting.dtype}-{passes}"),
        caption="Networks with their own attention and with softmax attention",
        heads=(
            Head(title="Network"),
            Head(title="Own attention", secondary=True),
            Head(title="Side", unit="px", number=True),
            Head(title="Own", unit=scale.unit, number=True),
            Head(title="95 % interval", unit=scale.unit, secondary=True),
            Head(title="Softmax", unit=scale.unit, number=True, secondary=True),
            Head(title="95 % interval", unit=scale.unit, secondary=True),
            Head(title="To softmax", number=True),
            Head(title="Verdict", help=_VERDICT_HELP),
        ),
        rows=tuple(_row(view, pair, scale, floor) for pair in pairs),
        empty="",
        show_caption=False,
        sticky=True,
    )


def _row(view: View, pair: Pair, scale: Scale, floor: float | None) -> Row:
    own, softmax = pair.own.numbers["latency"], pair.softmax.numbers["latency"]
    word = verdict(own.standing, softmax.standing, floor)
    title = view.network_title(pair.backbone)
    return Row(
        (
            Cell((title,), title),
            Cell(name(view, pair.own), pair.own.variant),
            Cell((str(pair.side_px),), pair.side_px),
            Cell(_linked(scale.text(own.value), pair.own), own.value),
            Cell((interval_text(scale, own),)),
            Cell(_linked(scale.text(softmax.value), pair.softmax), softmax.value),
            Cell((interval_text(scale, softmax),)),
            Cell((measure("ratio", pair.ratio),), pair.ratio),
            Cell((word,), word),
        )
    )


def _linked(text: str, result: Result) -> Inline:
    return (Link(text, result_address(result)),)
