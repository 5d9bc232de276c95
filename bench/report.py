"""What an analysis found, as nouns: numbers, figures' data, one sentence. Imports no torch.

A report lies in `results/analyses/<hardware_id>/<analysis>.json`. It can be made again from the
seeds, so a newer one replaces an older one: unlike runs, reports are not append-only.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from bench import strict_json
from bench.model import (
    Count,
    Fraction,
    Instant,
    Name,
    Sha256,
    Text,
    Whole,
    adapter,
    noun,
    to_json,
)
from bench.whole_file import whole_file

FOLDER = "analyses"
"""Below the results folder."""
Finite = Annotated[float, Field(allow_inf_nan=False)]


@noun
class Network:
    """A trained network that an analysis looked into."""

    task: Name
    """What it was trained on."""
    recipe_sha256: Sha256
    """Digest of network and recipe."""
    data_sha256: Sha256
    """Digest of the examples."""
    variant: Name
    """Mechanism of every attention layer."""
    variant_revision: Count
    """Its revision."""
    options: Text
    """`name=value, ...` of what differs from the defaults; empty for the defaults."""
    seed: Whole
    """Seed of initialisation and data order."""
    accuracy: Fraction
    """On the test set, after the last epoch."""


@noun
class Quantity:
    """One number that an analysis computed."""

    variant: Name | None
    """Which mechanism; None for what belongs to none."""
    name: Text
    """What it is."""
    setting: Text
    """Under which circumstances, e.g. `layer 2, tolerance 1e-3`; empty where there is one only."""
    value: Finite
    """In base units; fractions in 0..1."""


@noun
class Line:
    """One series of a figure."""

    variant: Name | None
    """Which mechanism; None for what belongs to none."""
    label: Text
    """Name in the key."""
    x: tuple[Finite, ...]
    """Places."""
    y: tuple[Finite, ...]
    """Values, as many as places."""
    low: tuple[Finite, ...] | None = None
    """Lower end of the spread over seeds, heads or images; None: there is none."""
    high: tuple[Finite, ...] | None = None
    """Upper end."""


@noun
class Curves:
    """A figure of lines or bars."""

    kind: Literal["lines", "bars"]
    """How it is meant to be drawn."""
    title: Text
    """What it shows."""
    x: Text
    """What is along, with its unit."""
    y: Text
    """What is up, with its unit."""
    log_x: bool = False
    """Along is logarithmic."""
    log_y: bool = False
    """Up is logarithmic."""
    lines: Annotated[tuple[Line, ...], Field(min_length=1)]
    """Series."""
    names: tuple[Text, ...] | None = None
    """What stands along at 0, 1, ...; None: what is along is a number."""
    level: Finite | None = None
    """A horizontal line to compare with; None: there is none."""
    level_label: Text | None = None
    """What that line is."""


@noun
class Picture:
    """A matrix of numbers that is drawn as grey levels or colours."""

    kind: Literal["picture"] = "picture"
    title: Text
    """What it shows."""
    variant: Name | None
    """Which mechanism; None for what belongs to none."""
    rows: Annotated[tuple[tuple[Finite, ...], ...], Field(min_length=1)]
    """Values, row by row."""
    marked: tuple[Whole, Whole] | None = None
    """Row and column that the picture is about, e.g. the query; None: no such place."""


Figure = Annotated[Curves | Picture, Field(discriminator="kind")]


@noun
class AnalysisReport:
    """`<analysis>.json`."""

    schema: Literal[1] = 1
    """Version of this format."""
    analysis: Name
    """File name under bench/analyses."""
    revision: Count
    """Revision of the analysis; another than the tree's means stale."""
    created: Instant
    """When it was made, UTC."""
    hardware_id: Name
    """Where."""
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    """Commit of the suite; None outside a git checkout."""
    dirty: bool
    """The code differed from the commit."""
    torch: Text
    """torch version."""
    wall_s: Annotated[float, Field(ge=0)]
    """Time that it took, trainings included."""
    claim: Text
    """What the paper says, in a sentence; empty where no paper says anything."""
    finding: Text
    """What came out here, in a sentence written from the numbers."""
    agrees: bool | None
    """Whether the finding is what the paper claims; None where that cannot be said."""
    networks: tuple[Network, ...]
    """Trained networks that were looked into; empty for analyses without training."""
    quantities: tuple[Quantity, ...]
    """Every number."""
    figures: tuple[Figure, ...]
    """Data of every figure."""


def write_report(root: Path, report: AnalysisReport) -> Path:
    """Write a report below the results folder `root`, whole or not at all; return its path."""
    path = root / FOLDER / report.hardware_id / f"{report.analysis}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(strict_json.pretty(to_json(report)).encode())
    return path


def read_reports(root: Path) -> tuple[tuple[AnalysisReport, ...], tuple[tuple[str, str], ...]]:
    """Return every report below the results folder `root`, and (path, reason) of the refused."""
    reports: list[AnalysisReport] = []
    refused: list[tuple[str, str]] = []
    for path in sorted((root / FOLDER).rglob("*.json")):
        try:
            reports.append(_read(path))
        except (strict_json.StrictJsonError, ValidationError, ValueError) as error:
            refused.append((path.relative_to(root).as_posix(), str(error).splitlines()[0]))
    return tuple(reports), tuple(refused)


def _read(path: Path) -> AnalysisReport:
    document: Any = strict_json.parse(strict_json.read(path))
    report: AnalysisReport = adapter(AnalysisReport).validate_json(strict_json.canonical(document))
    place = (report.hardware_id, f"{report.analysis}.json")
    if (path.parent.name, path.name) != place:
        raise ValueError(f"says that it is {'/'.join(place)}: it was moved or renamed")
    for figure in report.figures:
        if isinstance(figure, Curves):
            for line in figure.lines:
                sizes = {len(v) for v in (line.x, line.y, line.low, line.high) if v is not None}
                if len(sizes) > 1:
                    raise ValueError(f"figure {figure.title!r}, {line.label!r}: sizes differ")
    return report
