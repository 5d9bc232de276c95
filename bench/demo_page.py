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

_WIDTH, _HEIGHT, _MARGIN = 560, 240, 40
_ENLARGED_PX = 96
_COLOURS = ("#0b62b8", "#c2410c")


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
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in numbers.items()
        if not isinstance(value, list)
    )
    pictures = "".join(map(_picture, predictions))
    title = f"{html.escape(str(numbers['variant']))}: demonstration"
    path = out / "index.html"
    path.write_text(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}}
figure{{display:inline-block;margin:.4rem;text-align:center}}img{{image-rendering:pixelated}}
.wrong{{color:#b00020;font-weight:600}}th{{text-align:left;padding-right:1rem}}
td{{overflow-wrap:anywhere}}</style></head><body><h1>{title}</h1>
<h2>Accuracy by epoch</h2>{curves(accuracy)}
<h2>Training loss by epoch</h2>{curves({"loss": numbers["training_loss"]})}
<h2>Test images</h2>{pictures}<h2>Numbers</h2><table>{listed}</table></body></html>
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
        x = _MARGIN + (_WIDTH - 3 * _MARGIN) * (epoch / max(1, most - 1))
        return x, _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (value - low) / span

    drawn: list[str] = []
    for (name, line), colour in zip(lines.items(), _COLOURS, strict=False):
        points = [place(epoch, value) for epoch, value in enumerate(line)]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline points="{joined}" fill="none" stroke="{colour}"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in points]
        if points:
            x, y = points[-1]
            drawn.append(
                f'<text x="{x + 6:.1f}" y="{y:.1f}" fill="{colour}">{html.escape(name)} '
                f"{line[-1]:.3g}</text>"
            )
    ends = (
        f'<text x="2" y="{_MARGIN}">{high:.3g}</text>'
        f'<text x="2" y="{_HEIGHT - _MARGIN}">{low:.3g}</text>'
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
