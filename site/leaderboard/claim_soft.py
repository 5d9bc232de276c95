"""SOFT, figure 1 (b): memory against tokens, as claimed and here."""

from collections.abc import Iterator, Mapping, Sequence

from bench.curves import exponent
from leaderboard.axes import Axis
from leaderboard.blocks import Block, Paragraph
from leaderboard.contexts import slug
from leaderboard.format import MISSING, decimal, listed
from leaderboard.lines import Line, Setting, drawn, layers, missing, networks
from leaderboard.pieces import VariantName
from leaderboard.results import View
from leaderboard.tables import Cell, Head, Row, Table

SOFT_LAYERS = ("softmax", "soft", "linformer", "performer", "nystromformer")
"""The mechanisms of the paper's figure."""
_SOFT = {"soft_tiny": "SOFT-Tiny"}
_SOFT_LINES = {
    ("soft_tiny", "soft"): "SOFT-Tiny",
    ("soft_tiny", "softmax"): "SOFT-Tiny with softmax attention",
}
_SOFT_SIDES = (224, 384, 512, 768, 1024)
SOFT_COMMAND = (
    "attnbench run --plan models --only 'model/soft_tiny/b1/???px/*/forward#* "
    "model/soft_tiny/b1/1024px/*/forward#*'"
)
NEAR_POWER = 0.2
"""How far a measured power may be from the paper's and still be the same: what is constant beside
the tokens bends the curves of small sizes."""
_STEM = 4
"""Pixels to a token, a side, in SOFT's first stage."""


def soft_memory(view: View) -> Iterator[Block]:
    """Memory against tokens: of one layer, and of the whole network."""
    yield Paragraph((
        ("The figure in the paper shows memory of 12 layers of 384 channels, 12 heads and 49 "
        "landmarks against tokens, 784 to 6,272, batch 1, on a V100: quadratic for softmax "
        "attention, linear for SOFT, Linformer, Performer and Nyströmformer. Its printed numbers "
        "are not available here, so the exponents are compared. Here one layer stands for the "
        "twelve, because a forward pass holds one layer's memory at a time."),
    ))  # fmt: skip
    for setting, lines in layers(view, SOFT_LAYERS).items():
        tokens = {side: r.tokens or 0 for line in lines for side, r in line.at.items()}
        yield drawn(
            view, setting, lines,
            name="soft-memory-layer",
            title=f"Peak memory of one layer, {view.machine_title(setting.hardware_id)}, "
            f"{setting.dtype}, {_width(lines)}, batch 1",
            finding=_memory_finding(lines, tokens),
            metric="peak_memory",
            axis=Axis(title="Peak memory", quantity="byte", log=True),
            tokens=tokens,
        )  # fmt: skip
        yield _growth("soft-memory-layer-growth", setting, lines, tokens)
    yield Paragraph((
        ("In the whole network the published code lets a landmark stand for 8 by 8, 4 by 4 and 2 "
        "by 2 tokens, so that their number grows with the image, and the affinities of tokens and "
        "landmarks with the square of the tokens. The figure of the paper has a fixed number."),
    ))  # fmt: skip
    found = networks(view, _SOFT, _SOFT_LINES)
    yield from missing(
        [(line.label, line.at) for lines in found.values() for line in lines],
        tuple(_SOFT_LINES.values()), _SOFT_SIDES, SOFT_COMMAND,
    )  # fmt: skip
    for setting, lines in found.items():
        tokens = {side: (side // _STEM) ** 2 for line in lines for side in line.at}
        yield drawn(
            view, setting, lines,
            name="soft-memory-network",
            title=f"Peak memory of SOFT-Tiny, {view.machine_title(setting.hardware_id)}, "
            f"{setting.dtype}, batch 1",
            finding=_memory_finding(lines, tokens),
            metric="peak_memory",
            axis=Axis(title="Peak memory", quantity="byte", log=True),
            tokens=tokens,
        )  # fmt: skip
        yield _growth("soft-memory-network-growth", setting, lines, tokens)


def _width(lines: Sequence[Line]) -> str:
    first = next(iter(lines[0].at.values()))
    return f"{first.heads} heads of {first.head_dim} channels"


def _growth_of(line: Line, tokens: Mapping[int, int]) -> tuple[float, float, float] | None:
    able = [
        (tokens[side], value)
        for side in line.at
        if (value := line.value(side, "peak_memory")) is not None
    ]
    fitted = exponent([n for n, _ in able], [value for _, value in able])
    return None if fitted is None else (fitted.value, fitted.low, fitted.high)


def _claimed(line: Line) -> int:
    """Power of tokens with which memory grows in the paper's figure."""
    return 2 if line.variant == "softmax" else 1


def _memory_finding(lines: Sequence[Line], tokens: Mapping[int, int]) -> str:
    """Say what was measured, and for whom that is what the paper shows."""
    found = [
        (line, growth[0])
        for line in lines
        if line.backend == "reference" and (growth := _growth_of(line, tokens)) is not None
    ]
    if not found:
        return "Too few sizes for a slope."
    parts = [f"{line.label} with the power {decimal(power)}" for line, power in found]
    agree = [line.label for line, power in found if abs(power - _claimed(line)) <= NEAR_POWER]
    differ = [
        f"{line.label} (paper: {_claimed(line)})"
        for line, power in found
        if abs(power - _claimed(line)) > NEAR_POWER
    ]
    verdict = f" That is what the paper shows for {listed(agree)}." if agree else ""
    verdict += f" It is not what the paper shows for {listed(differ)}." if differ else ""
    return f"Memory grows in tokens: {listed(parts)}.{verdict}"


def _growth(name: str, setting: Setting, lines: Sequence[Line], tokens: Mapping[int, int]) -> Table:
    rows: list[Row] = []
    for line in lines:
        found = _growth_of(line, tokens)
        cells = [Cell((VariantName(line.variant, line.label),), line.label)]
        if found is None:
            cells += [Cell(("too few sizes",), tone="muted"), Cell((MISSING,), tone="muted")]
        else:
            value, low, high = found
            cells += [
                Cell((decimal(value),), value),
                Cell((f"{decimal(low)} to {decimal(high)}",), low),
            ]
        fused = line.variant == "softmax" and line.backend != "reference"
        cells.append(
            Cell(("not shown",), tone="muted")
            if fused
            else Cell((str(_claimed(line)),), _claimed(line))
        )
        rows.append(Row(tuple(cells)))
    return Table(
        id=slug(f"{name}-{setting.hardware_id}-{setting.dtype}"),
        caption="Power of tokens with which memory grows",
        heads=(
            Head(title="Mechanism"),
            Head(title="Measured", unit="power of tokens", number=True),
            Head(title="95 % interval", number=True, secondary=True),
            Head(title="Paper", number=True),
        ),
        rows=tuple(rows),
        empty="",
        show_caption=False,
    )
