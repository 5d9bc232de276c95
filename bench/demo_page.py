"""The page of the demonstration: learning curves and predictions, one file without scripts."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 130, 16, 40
"""Room around the lines: values, names at their ends, nothing, epochs."""
_ENLARGED_PX = 96
_COLOURS = ("light-dark(#0b62b8, #6cb2f5)", "light-dark(#c2410c, #f59e6c)")
_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}
svg{max-width:100%;height:auto}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:1rem .5rem}
figure{margin:0;text-align:center;font-size:.875rem}
img{image-rendering:pixelated}
.wrong{color:light-dark(#b00020,#ff8a95);font-weight:600}
th{text-align:left;vertical-align:top;padding-right:1rem;font-weight:600}
td{overflow-wrap:anywhere}
"""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One test image and what the network says."""

    pixels: np.ndarray
    """[height, width, 3], bytes."""
    truth: str
    answer: str
    share: float
    """Probability of the answer, 0..1."""


def write_page(out: Path, numbers: Mapping[str, Any], predictions: Sequence[Prediction]) -> Path:
    """Write `index.html` below `out` and return its path."""
    accuracy = {
        "training": numbers["training_accuracy"],
        "held out": numbers["held_out_accuracy"],
    }
    listed = "".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th>"
        f"<td>{html.escape(f'{value:.4g}' if isinstance(value, float) else str(value))}</td></tr>"
        for name, value in numbers.items()
        if not isinstance(value, list)
    )
    pictures = "".join(map(_picture, predictions))
    title = f"{html.escape(str(numbers['variant']))}: demonstration"
    path = out / "index.html"
    path.write_text(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>{_STYLE}</style></head><body><h1>{title}</h1>
<h2>Accuracy by epoch</h2>{curves(accuracy)}
<h2>Training loss by epoch</h2>{curves({"loss": numbers["training_loss"]})}
<h2>Test images</h2><div class="pictures">{pictures}</div>
<h2>Numbers</h2><table>{listed}</table></body></html>
""",
        encoding="utf-8",
    )
    return path


def curves(lines: Mapping[str, Sequence[float]]) -> str:
    """Return an SVG of lines over epochs 1, 2, ..., each labelled at its end."""
    values = [v for line in lines.values() for v in line]
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = (high - low) or 1.0
    most = max((len(line) for line in lines.values()), default=1)

    def place(epoch: int, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (epoch / max(1, most - 1))
        return x, _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / span

    drawn: list[str] = []
    for (name, line), colour in zip(lines.items(), _COLOURS, strict=False):
        points = [place(epoch, value) for epoch, value in enumerate(line)]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline points="{joined}" fill="none" style="stroke:{colour}"/>')
        drawn += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" style="fill:{colour}"/>' for x, y in points
        ]
        if points:
            x, y = points[-1]
            drawn.append(
                f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" style="fill:{colour}">{html.escape(name)} '
                f"{line[-1]:.3g}</text>"
            )
    floor = _HEIGHT - _BOTTOM
    ends = (
        f'<path d="M{_LEFT} {_TOP}V{floor}H{_WIDTH - _RIGHT}" fill="none" stroke="currentColor" '
        'opacity=".3"/><g fill="currentColor">'
        f'<text x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{floor + 4}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_LEFT}" y="{floor + 18}">epoch 1</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{floor + 18}" text-anchor="end">{most}</text></g>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" font-size="12" role="img">'
        f"{ends}{''.join(drawn)}</svg>"
    )


def _picture(one: Prediction) -> str:
    buffer = io.BytesIO()
    Image.fromarray(one.pixels).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    right = one.answer == one.truth
    caption = f"{html.escape(one.answer)} ({100 * one.share:.0f} %)"
    if not right:
        caption = f'<span class="wrong">{caption}</span><br>is {html.escape(one.truth)}'
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{_ENLARGED_PX}" '
        f'height="{_ENLARGED_PX}" alt="{html.escape(one.truth)}"><figcaption>{caption}'
        "</figcaption></figure>"
    )
