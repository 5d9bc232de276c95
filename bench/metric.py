"""What a metric must declare, and how the metrics are found: one file each in bench/metrics."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attention_impls.registry import names_in, unknown
from bench.model import Case, DeviceKind, Measurement, Protocol

if TYPE_CHECKING:
    from bench.subject import Subject

Unit = Literal[
    "s", "byte", "flop", "count", "j", "w", "hz", "celsius", "fraction", "relative", "nat", "value",
]  # fmt: skip
"""Base units; `relative` is an error divided by what it is an error of, `nat` a loss, `value` an
element of an output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One measured quantity: the last object of its file."""

    name: str
    """Identifier; equals the file's name."""
    title: str
    """Column head."""
    unit: Unit
    better: Literal["lower", "higher"] | None
    """Direction; None for quantities that are neither good nor bad."""
    help: str
    """One or two sentences: what is measured and what is not."""
    every_round: bool
    """Measured in each round; False for quantities that cannot vary: first round only."""
    applies: Callable[[Case, DeviceKind], bool]
    """Whether this metric belongs to a case on a device."""
    measure: Callable[["Subject", Protocol], Measurement]
    """Measure one round. Never returns a sentinel: `Unavailable` says why there is no number."""
    allocator: Literal["default", "keeping"] = "default"
    """CPU allocator policy: glibc's defaults (measured first), or pages kept between calls."""


@cache
def metrics() -> tuple[Metric, ...]:
    """Return every metric, sorted by name."""
    return tuple(metric(name) for name in names_in(Path(__file__).parent / "metrics"))


@cache
def metric(name: str) -> Metric:
    """Return metric `name`.

    Raises:
        UnknownName: no such file.
        TypeError: the file has no `METRIC` of that name.
    """
    known = names_in(Path(__file__).parent / "metrics")
    if name not in known:
        raise unknown("metric", name, known)
    found = getattr(importlib.import_module(f"bench.metrics.{name}"), "METRIC", None)
    if not isinstance(found, Metric) or found.name != name:
        raise TypeError(f"bench/metrics/{name}.py: METRIC is missing or has another name")
    return found
