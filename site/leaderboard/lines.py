"""Networks and layers as lines over the side of an image, for claims about resolution."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from leaderboard.axes import Axis, tokens_axis
from leaderboard.blocks import Block, Notice
from leaderboard.contexts import slug
from leaderboard.figure_data import Point, Series
from leaderboard.figures import curves
from leaderboard.format import listed
from leaderboard.pieces import Code, Inline
from leaderboard.results import OUTCOME_WORDS, Result, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One execution of one network or layer over sizes."""

    variant: str
    backend: str
    label: str
    at: Mapping[int, Result]
    """By side of the image, small first."""

    def value(self, side: int, metric: str) -> float | None:
        """Return a metric at one size; None: not measured, or not with the code of today."""
        found = self.at.get(side)
        if found is None or not found.ranked or metric not in found.numbers:
            return None
        return found.numbers[metric].value


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What must be equal before results stand in one figure."""

    hardware_id: str
    dtype: str
    policy: str


def networks(
    view: View, backbones: Mapping[str, str], labels: Mapping[tuple[str, str], str]
) -> Mapping[Setting, tuple[Line, ...]]:
    """Return forward passes of whole networks at batch 1 as lines over the image side.

    Args:
        view: the results.
        backbones: id -> its name for people.
        labels: (backbone, variant) that are shown -> name of the line.
    """
    found: dict[Setting, dict[tuple[str, str, str], dict[int, Result]]] = {}
    for r in view.results:
        if (
            r.stimulus != "images"
            or r.backbone is None
            or r.backbone not in backbones
            or (r.backbone, r.variant) not in labels
            or (r.passes, r.batch_policy, r.options) != ("forward", "one", "")
            or r.resolution_px is None
        ):
            continue
        setting = Setting(hardware_id=r.hardware_id, dtype=r.dtype or "", policy="one")
        line = found.setdefault(setting, {}).setdefault((r.backbone, r.variant, r.backend), {})
        line[r.resolution_px] = r
    return {
        setting: tuple(
            Line(
                variant=variant,
                backend=backend,
                label=_labelled(labels[backbone, variant], backend),
                at=dict(sorted(lines[backbone, variant, backend].items())),
            )
            for backbone, variant, backend in sorted(lines)
        )
        for setting, lines in sorted(
            found.items(), key=lambda pair: (pair[0].hardware_id, pair[0].dtype)
        )
    }


def layers(view: View, variants: Sequence[str]) -> Mapping[Setting, tuple[Line, ...]]:
    """Return one layer's forward pass at batch 1 over images, in the width most was measured in."""
    widths: dict[Setting, dict[tuple[int | None, int | None], list[Result]]] = {}
    for r in view.results:
        if (
            r.stimulus == "workload"
            and r.variant in variants
            and (r.level, r.passes, r.batch_policy, r.options) == ("layer", "forward", "one", "")
            and r.resolution_px is not None
            and not r.causal
            and not r.extra_tokens
        ):
            setting = Setting(hardware_id=r.hardware_id, dtype=r.dtype or "", policy="one")
            widths.setdefault(setting, {}).setdefault((r.heads, r.head_dim), []).append(r)
    found: dict[Setting, tuple[Line, ...]] = {}
    for setting in sorted(widths, key=lambda s: (s.hardware_id, s.dtype)):
        results = max(widths[setting].values(), key=lambda rs: (len(rs), rs[0].heads or 0))
        lines: dict[tuple[str, str], dict[int, Result]] = {}
        for r in results:
            if r.backend in ("reference", "sdpa") and r.resolution_px is not None:
                lines.setdefault((r.variant, r.backend), {})[r.resolution_px] = r
        found[setting] = tuple(
            Line(
                variant=variant,
                backend=backend,
                label=_labelled(view.title(variant), backend),
                at=dict(sorted(lines[variant, backend].items())),
            )
            for variant, backend in sorted(lines)
        )
    return found


def _labelled(name: str, backend: str) -> str:
    return name if backend == "reference" else f"{name} {backend}"


def drawn(
    view: View,
    setting: Setting,
    lines: Sequence[Line],
    *,
    name: str,
    title: str,
    finding: str,
    metric: str,
    axis: Axis,
    tokens: Mapping[int, int],
) -> Block:
    """Return the figure of one metric over the image side.

    Args:
        view: for the looks.
        setting: of all lines.
        lines: what is drawn.
        name: start of the figure's id.
        title: what is shown.
        finding: what it says.
        metric: what is drawn.
        axis: of that metric.
        tokens: side of the image -> tokens.
    """
    sides = sorted({side for line in lines for side in line.at})
    series = [
        Series(
            variant=line.variant,
            label=line.label,
            main=line.backend == "reference",
            points=tuple(_points(line, metric, tokens)),
            failed=_failure(line),
            name=f"{line.variant}~{line.backend}~{slug(line.label)}",
        )
        for line in lines
    ]
    return curves(
        id_=slug(f"{name}-{setting.hardware_id}-{setting.dtype}"),
        title=title,
        finding=finding,
        x=tokens_axis("Image side", {tokens[side]: side for side in sides}),
        y=axis,
        series=[one for one in series if one.points],
        marks=view.marks,
    )


def _points(line: Line, metric: str, tokens: Mapping[int, int]) -> Iterator[Point]:
    for side, result in line.at.items():
        if line.value(side, metric) is not None:
            number = result.numbers[metric]
            yield Point(x=tokens[side], y=number.value, low=number.low, high=number.high)


def _failure(line: Line) -> str | None:
    """What happened first beyond the last size that worked."""
    worked = [side for side, r in line.at.items() if r.ok]
    beyond = [(s, r) for s, r in line.at.items() if not r.ok and s > max(worked, default=0)]
    if not worked or not beyond:
        return None
    side, result = beyond[0]
    return f"{OUTCOME_WORDS.get(result.outcome, result.outcome)} at {side} px"


def missing(
    have: Sequence[tuple[str, Mapping[int, Result]]],
    wanted: Sequence[str],
    sides: Sequence[int],
    command: str,
) -> Iterator[Block]:
    """Say which points no machine has measured, and how to measure them."""
    absent: list[str] = []
    for label in wanted:
        there = {s for name, at in have if name == label for s, r in at.items() if not r.stale}
        gone = [f"{side}" for side in sides if side not in there]
        if gone:
            absent.append(f"{label} at {listed(gone)} px")
    if absent:
        text: Inline = (f"Not measured yet: {'; '.join(absent)}. To measure them: ", Code(command))
        yield Notice((*text, "."))
