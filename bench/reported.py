"""Numbers copied from papers: results/reported/<paper>.json, read strictly, never ranked."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from bench import strict_json
from bench.model import Count, Name, Positive, Text, adapter, noun
from bench.table import Refused, ReportedNumber

Address = Annotated[str, Field(pattern=r"^https://[^\s<>\"']+$", max_length=300)]
Quantity = Literal[
    "parameters", "macs", "imagenet1k_top1", "image_throughput", "speedup", "memory",
    "code_parameters", "code_macs", "code_contractions",
]  # fmt: skip
UNITS: dict[Quantity, Literal["count", "mac", "fraction", "image/s", "ratio", "byte"]] = {
    "parameters": "count",
    "macs": "mac",
    "code_parameters": "count",
    "code_macs": "mac",
    "code_contractions": "mac",
    "imagenet1k_top1": "fraction",
    "image_throughput": "image/s",
    "speedup": "ratio",
    "memory": "byte",
}
"""Quantity -> unit; a "FLOP" in these papers is a multiply-add.

`code_` is what the published code of the model really has, counted by running it: parameters to the
last one, multiply-adds of one image by fvcore, which counts norms (five for each number), pooling
and interpolation, too, and of them those of matrix products and convolutions (`contractions`). A
throughput and a memory say hardware and batch in the note; a speedup is images/s over those of the
network that the note names.
"""


@noun
class Number:
    """One number of one model."""

    variant: Name
    """Variant of the tree that the model uses."""
    model: Text
    """The authors' name of the configuration."""
    resolution_px: Count
    """Side of the square input."""
    quantity: Quantity
    """What it is; `code_` numbers are counted in the published code instead of printed."""
    value: Positive
    """In base units; fractions in 0..1."""
    from_plot: bool = False
    """Read off a plot instead of printed."""
    table: Text
    """Where in the source."""
    url: Address
    """The source."""
    note: Text | None = None
    """What a reader must know, e.g. that two sources disagree."""


@noun
class Report:
    """All numbers of one paper."""

    schema: Literal[1] = 1
    """Version of this format."""
    paper: Name
    """Equals the file name."""
    title: Text
    """Title of the paper."""
    year: Count
    """Year of publication."""
    url: Address
    """Where the paper is."""
    numbers: Annotated[tuple[Number, ...], Field(min_length=1)]
    """Sorted by variant, model, resolution and quantity, without duplicates."""


def read_reported(folder: Path) -> tuple[tuple[ReportedNumber, ...], tuple[Refused, ...]]:
    """Read every file of `folder`; a bad one is refused whole, with path and reason."""
    numbers: list[ReportedNumber] = []
    refused: list[Refused] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            report = _report(path)
        except (strict_json.StrictJsonError, ValueError) as error:
            refused.append(Refused(path=f"{folder.name}/{path.name}", reason=_reason(error)))
            continue
        numbers += [_entry(report, number) for number in report.numbers]
    return tuple(numbers), tuple(refused)


def _report(path: Path) -> Report:
    if path.is_symlink() or not path.is_file() or path.suffix != ".json":
        raise ValueError("is not a plain .json file")
    document = strict_json.parse(strict_json.read(path))
    report: Report = adapter(Report).validate_json(strict_json.canonical(document))
    if report.paper != path.stem:
        raise ValueError(f"paper is {report.paper}, the file is named {path.name}")
    keys = [(n.variant, n.model, n.resolution_px, n.quantity) for n in report.numbers]
    if keys != sorted(set(keys)):
        raise ValueError("numbers are not sorted, or one occurs twice")
    for number in report.numbers:
        if UNITS[number.quantity] == "fraction" and number.value > 1:
            raise ValueError(f"{number.model}: {number.quantity} is {number.value}, allowed 0..1")
    return report


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)


def _entry(report: Report, number: Number) -> ReportedNumber:
    return ReportedNumber(
        paper=report.paper,
        variant=number.variant,
        model=number.model,
        resolution_px=number.resolution_px,
        quantity=number.quantity,
        value=number.value,
        unit=UNITS[number.quantity],
        from_plot=number.from_plot,
        table=number.table,
        url=number.url,
        note=number.note,
    )
