"""Drawings: plain dictionaries in plotly's form, drawn by static/figures.js.

Colours are names of style variables (`@c3`, `@text`), so that one drawing serves both themes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.axes import Axis, drawn_axis, plotly_text
from leaderboard.blocks import Paragraph
from leaderboard.drawings import Figure, KeyEntry
from leaderboard.figure_data import Point, Series, matrix, pairs, points_csv, with_interval
from leaderboard.format import measure
from leaderboard.marks import Mark

HEIGHT_PX = 480
_SUPPRESSED = "#00000000"
_BARS_BEYOND = 2
"""How far, as a factor, error bars may widen a logarithmic axis; longer ones leave the frame."""


def curves(
    *,
    id_: str,
    title: str,
    finding: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    marks: Mapping[str, Mark],
    ceiling: Sequence[Point] = (),
    paired: bool = False,
) -> Figure | Paragraph:
    """Return a figure of lines with error bars; failures are crosses at the last measured point.

    Without any point there is nothing to draw: then the finding stands alone.

    Args:
        id_: unique within the site.
        title: what is shown.
        finding: what it says.
        x: horizontal axis.
        y: vertical axis.
        series: the lines.
        marks: looks of the variants.
        ceiling: a line that nothing can pass.
        paired: the lines share no x: their data are pairs.
    """
    if not any(one.points for one in series):
        return Paragraph((finding,))
    traces = [_line(one, x, y, marks[one.variant]) for one in series]
    failures = [(i, one) for i, one in enumerate(series) if one.failed and one.points]
    crosses = [_cross(one, marks[one.variant]) for _, one in failures]
    numbers = {i: len(traces) + at for at, (i, _) in enumerate(failures)}
    everything = [p for one in series for p in one.points]
    layout = _layout(x, y, [*everything, *ceiling], room_for_labels=True)
    limit = [_ceiling(ceiling)] if ceiling else []
    drawing = {
        "data": traces + crosses + limit,
        "layout": layout,
        "ends": [
            {"series": i, "x": drawn(one.points[-1].x), "y": drawn(one.points[-1].y),
             "text": plotly_text(one.label), "colour": f"@{marks[one.variant].colour_class}",
             "last": one.points[-1].x == max(p.x for p in everything)}
            for i, one in enumerate(series)
            if one.points
        ],
        "names": [],
    }  # fmt: skip
    key = tuple(
        KeyEntry(
            one.variant,
            one.name or one.variant,
            one.label + (f" ({one.failed})" if one.failed else ""),
            (i, numbers[i]) if i in numbers else (i,),
            one.shown,
            one.main,
        )
        for i, one in enumerate(series)
    )
    return Figure(
        id=id_,
        title=title,
        finding=finding,
        drawing=drawing,
        key=key,
        data=(pairs if paired else matrix)(f"{id_}-table", title, x, y, series),
        csv_path=f"data/figures/{id_}.csv",
        csv_text=points_csv(x, y, series),
    )


def scatter(
    *,
    id_: str,
    title: str,
    finding: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    marks: Mapping[str, Mark],
    frontier: Sequence[Point],
    floor: tuple[float, str] | None,
    faded: Sequence[int] = (),
) -> Figure:
    """Return a figure of single points with a line through the best trade-offs.

    Args:
        id_: unique within the site.
        title: what is shown.
        finding: what it says.
        x: what less is better of.
        y: what more is better of.
        series: one point each.
        marks: looks of the variants.
        frontier: points that no other point beats in both, from left to right.
        floor: a level and its name, e.g. what guessing scores.
        faded: numbers of the series that another beats in both; faint, never left out.
    """
    traces = [_line(one, x, y, marks[one.variant]) for one in series]
    for number in faded:
        traces[number]["opacity"] = 0.5
    everything = [p for one in series for p in one.points]
    layout = _layout(x, y, everything, room_for_labels=False, least_y=floor[0] if floor else None)
    layout["shapes"] = []
    if floor:
        layout["shapes"].append(
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": floor[0], "y1": floor[0],
             "line": {"color": "@muted", "width": 1, "dash": "dot"}}
        )  # fmt: skip
        layout["annotations"].append(
            {"xref": "paper", "x": 1, "xanchor": "right", "y": floor[0], "yanchor": "top",
             "text": plotly_text(floor[1]), "showarrow": False,
             "font": {"size": 12, "color": "@muted"}}
        )  # fmt: skip
    layout["margin"] = layout["margin"] | {"r": 40}
    # names are placed by pixels: the margin must stay as it is
    layout["yaxis"]["automargin"] = False
    traces.append(
        {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "opacity": 0.6,
         "x": [p.x for p in frontier], "y": [p.y for p in frontier],
         "line": {"color": "@muted", "width": 1.25, "shape": "hv"}}
    )  # fmt: skip
    names = [
        {"series": i, "x": one.points[0].x, "y": one.points[0].y, "text": plotly_text(one.label),
         "colour": f"@{marks[one.variant].colour_class}"}
        # the first names find room; those of points that nothing beats matter most
        for i, one in sorted(enumerate(series), key=lambda pair: pair[0] in faded)
    ]  # fmt: skip
    key = tuple(
        KeyEntry(
            one.variant,
            one.name or one.variant,
            one.label,
            (i,),
            one.shown,
            one.main,
            folded=i in faded,
        )
        for i, one in enumerate(series)
    )
    return Figure(
        id=id_,
        title=title,
        finding=finding,
        drawing={"data": traces, "layout": layout, "ends": [], "names": names},
        key=key,
        data=pairs(f"{id_}-table", title, x, y, series),
        csv_path=f"data/figures/{id_}.csv",
        csv_text=points_csv(x, y, series),
    )


# Parts --------------------------------------------------------------------------------------------


def _line(one: Series, x: Axis, y: Axis, mark: Mark) -> dict[str, Any]:
    colour = f"@{mark.colour_class}"
    bounded = any(p.low is not None and p.high is not None for p in one.points)
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if len(one.points) > 1 else "markers",
        "name": plotly_text(one.label),
        "x": [drawn(p.x) for p in one.points],
        "y": [drawn(p.y) for p in one.points],
        "line": {"color": colour, "width": 1.75 if one.main else 1.25, "dash": mark.dash},
        "marker": {
            "color": colour if one.main else "@surface",
            "symbol": mark.symbol,
            "size": 7 if len(one.points) > 1 else 10,
            "line": {"color": colour, "width": 0 if one.main else 1.5},
        },
        "text": [f"{measure(x.quantity, p.x)}, {with_interval(y, p)}" for p in one.points],
        "hovertemplate": "<b>%{fullData.name}</b><br>%{text}<extra></extra>",
    }
    if bounded:
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [0 if p.high is None else _bar(p.high - p.y) for p in one.points],
            "arrayminus": [0 if p.low is None else _bar(p.y - p.low) for p in one.points],
            "thickness": 1,
            "width": 2.5,
            "color": colour,
        }
    return trace


def drawn(value: float) -> float:
    """Return five digits: more cannot be seen, and would double a figure's weight."""
    return float(f"{value:.5g}")


def _bar(length: float) -> float:
    return max(0.0, float(f"{length:.2g}"))


def _cross(one: Series, mark: Mark) -> dict[str, Any]:
    last = one.points[-1]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plotly_text(one.label),
        "x": [drawn(last.x)],
        "y": [drawn(last.y)],
        "marker": {
            "symbol": "x-thin",
            "size": 15,
            "line": {"color": f"@{mark.colour_class}", "width": 2.25},
            "color": _SUPPRESSED,
        },
        "text": [plotly_text(one.failed or "")],
        "hovertemplate": "<b>%{fullData.name}</b><br>%{text}<extra></extra>",
    }


def _ceiling(points: Sequence[Point]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "hoverinfo": "skip",
        "x": [p.x for p in points],
        "y": [p.y for p in points],
        "line": {"color": "@text", "width": 1.5},
    }


def _layout(
    x: Axis,
    y: Axis,
    points: Sequence[Point],
    *,
    room_for_labels: bool,
    least_y: float | None = None,
) -> dict[str, Any]:
    ys = [p.y for p in points]
    ends = [v for p in points for v in (p.low, p.high) if v is not None]
    if y.log:
        least, most = min(ys) / _BARS_BEYOND, max(ys) * _BARS_BEYOND
        ends = [min(max(v, least), most) for v in ends]
    ys += [*ends, *((least_y,) if least_y is not None else ())]
    return {
        "height": HEIGHT_PX,
        "margin": {"l": 68, "r": 150 if room_for_labels else 130, "t": 10, "b": 62},
        "paper_bgcolor": "@surface",
        "plot_bgcolor": "@surface",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "@muted"},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "@panel",
            "bordercolor": "@strong-line",
            "font": {"size": 12, "color": "@text"},
        },
        "xaxis": drawn_axis(x, [p.x for p in points]),
        "yaxis": drawn_axis(y, ys),
        "annotations": [],
        "dragmode": False,
        "modebar": {"bgcolor": _SUPPRESSED, "color": "@muted", "activecolor": "@text"},
    }
