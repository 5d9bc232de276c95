"""Reports of analyses as blocks: finding beside claim, and figures that need no script."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report import AnalysisReport, Curves, Line, Picture
from bench.table import AnalysisEntry
from leaderboard import charts
from leaderboard.blocks import Block
from leaderboard.contexts import slug
from leaderboard.drawings import Charts, Gallery, TileRow
from leaderboard.format import count_of, listed, percent
from leaderboard.marks import Mark
from leaderboard.pieces import Badge, VariantName
from leaderboard.results import View

_FEW = 6
"""Places along up to which each has a tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a result is what a paper claims."""

    word: str
    sentence: str
    badge: Badge


AGREES = Verdict(
    word="agrees",
    sentence="Our small-scale result agrees with the paper.",
    badge=Badge("agrees", "own", "Every part of the claim holds in our numbers."),
)
DISAGREES = Verdict(
    word="disagrees",
    sentence="Our small-scale result disagrees with the paper in at least one part.",
    badge=Badge("disagrees", "failure", "At least one part of the claim does not hold here."),
)
CANNOT_TELL = Verdict(
    word="cannot tell",
    sentence="Our small-scale result speaks nowhere against the paper, but cannot tell about every "
    "part of the claim.",
    badge=Badge("cannot tell", "warning", "The numbers do not decide every part of the claim."),
)
NO_CLAIM = Verdict(
    word="no claim",
    sentence="No paper claims anything that this could be held against.",
    badge=Badge("no claim", "plain", "Shown for itself."),
)


def verdict(report: AnalysisReport) -> Verdict:
    """Return what the report says about the paper's claim."""
    if not report.claim:
        return NO_CLAIM
    if report.agrees is None:
        return CANNOT_TELL
    return AGREES if report.agrees else DISAGREES


def stale(view: View, report: AnalysisReport, entry: AnalysisEntry | None) -> tuple[str, ...]:
    """Return why the report is of another state of the tree, in sentences; empty: it is not."""
    found: list[str] = []
    if entry is None:
        found.append("The analysis is not in the tree any more.")
    elif entry.revision != report.revision:
        found.append(f"The analysis is now of revision {entry.revision}.")
    for network in report.networks:
        task, variant = view.tasks.get(network.task), view.variants.get(network.variant)
        if task is None or task.recipe_sha256 != network.recipe_sha256:
            found.append(f"The recipe of {network.task} has changed.")
        if variant is None or variant.revision != network.variant_revision:
            found.append(f"{view.title(network.variant)} has changed.")
    return tuple(dict.fromkeys(found))


def networks_in_words(view: View, report: AnalysisReport) -> str:
    """Say which trained networks were looked into."""
    if not report.networks:
        return "No trained networks: the mathematics alone, on made-up inputs."
    tasks = {
        n.task: view.tasks[n.task].title if n.task in view.tasks else n.task
        for n in report.networks
    }
    seeds = sorted({n.seed for n in report.networks})
    accuracies = [n.accuracy for n in report.networks]
    return (
        f"{count_of(len(report.networks), 'network')} trained on {listed(tasks.values())}, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(map(str, seeds))}; accuracy "
        f"{percent(min(accuracies))} to {percent(max(accuracies))}."
    )


def figures(view: View, report: AnalysisReport) -> Iterator[Block]:
    """Yield every figure of a report; neighbours with the same lines share one key."""
    name = f"why-{slug(report.analysis)}-{slug(report.hardware_id)}"
    pictures = [f for f in report.figures if isinstance(f, Picture)]
    curves = [f for f in report.figures if isinstance(f, Curves)]
    groups: list[list[Curves]] = []
    for one in curves:
        if groups and _key(groups[-1][0]) == _key(one) and not _repeats(one):
            groups[-1].append(one)
        else:
            groups.append([one])
    for number, group in enumerate(groups, start=1):
        yield _group(view, f"{name}-{number}", group)
    if pictures:
        yield _gallery(view, name, pictures)


def _key(figure: Curves) -> tuple[tuple[str | None, str], ...]:
    return tuple((line.variant, line.label) for line in figure.lines)


def _repeats(figure: Curves) -> bool:
    """Several lines of each of several variants: every variant gets a chart of its own."""
    counts = Counter(line.variant for line in figure.lines)
    return len(counts) > 1 and min(counts.values()) > 1


def _group(view: View, id_: str, group: Sequence[Curves]) -> Charts:
    if _repeats(group[0]):
        return _by_variant(view, id_, group[0])
    lines = group[0].lines
    looks = charts.looks([line.variant for line in lines], view.marks)
    alone = len(group) == 1
    return charts.charts(
        id_=id_,
        title=group[0].title if alone else "",
        note="",
        members=[_chart(one, one.lines, looks, "" if alone else one.title, one) for one in group],
        keys=[(line.label, look) for line, look in zip(lines, looks, strict=True)]
        if len(lines) > 1
        else (),
        rows=[row for one in group for row in _rows(one)],
    )


def _by_variant(view: View, id_: str, figure: Curves) -> Charts:
    """One chart a variant, with the same axes and the same looks in all."""
    variants = list(dict.fromkeys(line.variant for line in figure.lines))
    of = {v: [line for line in figure.lines if line.variant == v] for v in variants}
    short = {
        id(line): line.label.removeprefix(f"{view.title(v)}, ") if v else line.label
        for v, lines in of.items()
        for line in lines
    }
    labels = list(dict.fromkeys(short.values()))
    looks = dict(zip(labels, charts.looks([None] * len(labels), {}), strict=True))
    return charts.charts(
        id_=id_,
        title=figure.title,
        note="",
        members=[
            _chart(
                figure,
                lines,
                [looks[short[id(line)]] for line in lines],
                view.title(v) if v else "",
                figure,
            )
            for v, lines in of.items()
        ],
        keys=tuple(looks.items()),
        rows=_rows(figure),
    )


def _chart(
    figure: Curves, lines: Sequence[Line], looks: Sequence[Mark], title: str, scaled: Curves
) -> charts.Chart:
    """Draw `lines` on axes that fit every line of `scaled`."""
    ys = [v for line in scaled.lines for v in (*line.y, *(line.low or ()), *(line.high or ()))]
    ys += [figure.level] if figure.level is not None else []
    xs = sorted({v for line in scaled.lines for v in line.x})
    fraction = "fraction" in figure.y or figure.y.startswith("share")
    y = charts.scale(figure.y.removesuffix(", fraction"), ys, log=figure.log_y, percent=fraction)
    x = charts.scale(
        figure.x, xs, log=figure.log_x, names=figure.names,
        at=tuple(xs) if len(xs) <= _FEW else None,
    )  # fmt: skip
    return charts.chart(
        title=title,
        description=_description(figure, lines, title),
        x=x,
        y=y,
        lines=[
            charts.Drawn(
                label=line.label,
                look=look,
                points=tuple(zip(line.x, line.y, strict=True)),
                ends=tuple(zip(line.low, line.high, strict=True))
                if line.low is not None and line.high is not None
                else (),
            )
            for line, look in zip(lines, looks, strict=True)
        ],
        level=None if figure.level is None else (figure.level, figure.level_label or ""),
    )


def _description(figure: Curves, lines: Sequence[Line], title: str) -> str:
    ends = "; ".join(f"{line.label}: {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines)
    return f"{title or figure.title}. {figure.y} over {figure.x}. First to last value of {ends}."


def _rows(
    figure: Curves,
) -> list[tuple[str, str, float, float, float | None, float | None]]:
    return [
        (
            figure.title,
            line.label,
            x,
            y,
            line.low[n] if line.low is not None else None,
            line.high[n] if line.high is not None else None,
        )
        for line in figure.lines
        for n, (x, y) in enumerate(zip(line.x, line.y, strict=True))
    ]


def _gallery(view: View, name: str, pictures: Sequence[Picture]) -> Gallery:
    owners = list(dict.fromkeys(p.variant for p in pictures))
    return Gallery(
        id=f"{name}-pictures",
        title="Weights of one query as pictures",
        note=(
            "The square with a frame is the query. A square is as strong as its weight against the "
            "largest of its picture; negative weights have the other colour and a minus sign."
        ),
        rows=tuple(
            TileRow(
                name=(VariantName(owner, view.title(owner)),) if owner else ("What was looked at",),
                pictures=tuple(
                    charts.tiles(p.title, p.rows, p.marked) for p in pictures if p.variant == owner
                ),
            )
            for owner in owners
        ),
    )
