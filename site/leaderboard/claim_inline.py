"""InLine, figure 3 (c): images per second against the side of the image, as claimed and here."""

from collections.abc import Iterator, Mapping, Sequence

from leaderboard.axes import Axis
from leaderboard.blocks import Block, Paragraph
from leaderboard.checked import numbers_by_model
from leaderboard.contexts import slug
from leaderboard.format import MISSING, decimal, listed, measure
from leaderboard.lines import Line, Setting, drawn, missing, networks
from leaderboard.results import OUTCOME_WORDS, View
from leaderboard.tables import Cell, Head, Row, Table

INLINE_SIDES = (224, 384, 640, 1024)
"""Of the paper's figure."""
_INLINE = {"inline_deit_t": "InLine-DeiT-T", "deit_tiny_patch16_224": "DeiT-T"}
_INLINE_LINES = {
    ("inline_deit_t", "inline"): "InLine-DeiT-T",
    ("deit_tiny_patch16_224", "softmax"): "DeiT-T",
}
INLINE_COMMAND = "attnbench run --plan models --only '{}'".format(
    " ".join(f"model/{id_}/b1/{side}px/*/forward#*" for id_ in _INLINE for side in ("???", "1024"))
)


def inline_at_resolutions(view: View) -> Iterator[Block]:
    """Images per second of InLine-DeiT-T and DeiT-T against the side of the image."""
    claims = {
        side: found["speedup"].value
        for (_, model, side), found in numbers_by_model(view).items()
        if model == "InLine-DeiT-T" and "speedup" in found
    }
    words = listed([f"{decimal(claims[s], 1)} at {s} px" for s in sorted(claims)])
    yield Paragraph((
        "The figure in the paper shows images per second of both networks on an RTX 3090"
        + (f" and writes the ratios {words}" if claims else "")
        + ". At 224 px its lines lie on each other. Panel (b) of that figure, over window sizes, "
        "is not repeated here.",
    ))  # fmt: skip
    found = networks(view, _INLINE, _INLINE_LINES)
    yield from missing(
        [(line.label, line.at) for lines in found.values() for line in lines],
        tuple(_INLINE.values()), INLINE_SIDES, INLINE_COMMAND,
    )  # fmt: skip
    for setting, lines in found.items():
        sides = sorted({side for line in lines for side in line.at})
        yield drawn(
            view, setting, lines,
            name="inline-speed",
            title=f"Images per second, {view.machine_title(setting.hardware_id)}, {setting.dtype}, "
            "batch 1",
            finding=_inline_finding(lines, claims),
            metric="image_throughput",
            axis=Axis(title="Images per second", quantity="image/s", log=True),
            tokens={side: side * side for side in sides},
        )  # fmt: skip
        yield _inline_table(setting, lines, claims)


def _of(lines: Sequence[Line], variant: str, backend: str) -> Line | None:
    return next((one for one in lines if (one.variant, one.backend) == (variant, backend)), None)


def _ratio(first: Line | None, second: Line | None, side: int, metric: str) -> float | None:
    if first is None or second is None:
        return None
    a, b = first.value(side, metric), second.value(side, metric)
    return None if a is None or b is None else a / b


def _inline_finding(lines: Sequence[Line], claims: Mapping[int, float]) -> str:
    inline = _of(lines, "inline", "reference")
    parts: list[str] = []
    for backend, word in (("reference", "with stored scores"), ("sdpa", "with fused attention")):
        other = _of(lines, "softmax", backend)
        for side in sorted(claims, reverse=True):
            ratio = _ratio(inline, other, side, "image_throughput")
            if ratio is not None:
                parts.append(
                    f"{decimal(ratio, 1 if ratio >= 1 else 2)} times DeiT-T {word} at {side} px "
                    f"(paper: {decimal(claims[side], 1)})"
                )
                break
    return f"InLine-DeiT-T runs at {listed(parts)}." if parts else "No ratio can be formed yet."


def _inline_table(setting: Setting, lines: Sequence[Line], claims: Mapping[int, float]) -> Table:
    inline = _of(lines, "inline", "reference")
    others = [_of(lines, "softmax", backend) for backend in ("reference", "sdpa")]
    sides = sorted({side for line in lines for side in line.at} | set(INLINE_SIDES))
    rows: list[Row] = []
    for side in sides:
        cells = [Cell((f"{side} px",), side)]
        cells.append(_number(inline, side))
        for other in others:
            ratio = _ratio(inline, other, side, "image_throughput")
            cells += [_number(other, side), _plain(ratio, 2)]
        cells.append(_plain(claims.get(side), 1))
        rows.append(Row(tuple(cells)))
    return Table(
        id=slug(f"inline-speed-ratios-{setting.hardware_id}-{setting.dtype}"),
        caption="InLine-DeiT-T and DeiT-T, images per second",
        heads=(
            Head(title="Side", number=True),
            Head(title="InLine-DeiT-T", unit="images/s", number=True),
            Head(title="DeiT-T", unit="images/s", number=True),
            Head(title="Ratio", unit="here", number=True),
            Head(title="DeiT-T, fused", unit="images/s", number=True),
            Head(title="Ratio", unit="here", number=True),
            Head(title="Ratio", unit="paper", number=True),
        ),
        rows=tuple(rows),
        empty="",
        show_caption=False,
        sticky=True,
    )


def _number(line: Line | None, side: int) -> Cell:
    value = None if line is None else line.value(side, "image_throughput")
    if value is not None:
        return Cell((measure("image/s", value).partition("\N{NO-BREAK SPACE}")[0],), value)
    result = None if line is None else line.at.get(side)
    if result is not None and not result.ok:
        return Cell((OUTCOME_WORDS.get(result.outcome, result.outcome),), tone="failure")
    return Cell((MISSING,), tone="muted")


def _plain(value: float | None, places: int) -> Cell:
    return (
        Cell((MISSING,), tone="muted") if value is None else Cell((decimal(value, places),), value)
    )
