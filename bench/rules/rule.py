"""What a rule is, what it may look at, and what it finds."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_impls.registry import UnknownName, load_backbone
from attention_impls.shapes import AttentionShape
from bench import roofline
from bench.asked_layer import options_of, workload_shape
from bench.derived import Summary, summary
from bench.ledger import Ledger
from bench.metric import Unit, metrics
from bench.model import (
    Case,
    Images,
    Measured,
    Measurement,
    Ok,
    Record,
    Run,
    Timed,
    Workload,
    canonical,
)
from bench.rules.tree import Tree
from bench.submission import Refusal, StoredRun
from bench.tier import Severity

if TYPE_CHECKING:
    from attention_impls.backbone import BackboneSpec
    from attention_impls.spec import AttentionSpec

ABOVE_ZERO: tuple[Unit, ...] = ("s", "hz", "w")
"""Units of what cannot be nothing."""
LONGEST_MESSAGE = 1000
"""Characters of a finding."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A finding before its rule is known."""

    file: str
    """Below the run's folder, for rules about all of results/ below that."""
    message: str
    case_ids: tuple[str, ...] = ()
    """The cases that it is about; empty: everything in the file."""


@dataclass(frozen=True, slots=True)
class Computable:
    """A call whose costs can be computed again."""

    spec: "AttentionSpec"
    options: Any
    shape: AttentionShape


@dataclass(frozen=True, kw_only=True)
class RecordUnderTest:
    """One record with what rules ask about it again and again; answers are kept."""

    run: Run
    tree: Tree
    file: str
    index: int
    record: Record
    _summaries: dict[str, Summary | None] = field(default_factory=dict[str, Summary | None])

    @property
    def case(self) -> Case:
        """What ran."""
        return self.record.case

    @property
    def ok(self) -> Ok | None:
        """The outcome, if it is Ok."""
        return self.record.outcome if isinstance(self.record.outcome, Ok) else None

    @property
    def workload(self) -> Workload | None:
        """The stimulus, if it is a timed call of a layer."""
        return self.case.stimulus if isinstance(self.case.stimulus, Workload) else None

    @property
    def timed(self) -> Timed | None:
        """The stimulus, if it is a timed call of a layer or a network."""
        return self.case.stimulus if isinstance(self.case.stimulus, Timed) else None

    @cached_property
    def network(self) -> "BackboneSpec | None":
        """The network that was called; None for other stimuli, or where the tree has it not."""
        stimulus = self.case.stimulus
        if not isinstance(stimulus, Images) or self.spec is None or self.options is None:
            return None
        try:
            published = load_backbone(stimulus.backbone)
        except UnknownName:
            return None
        return published.with_variant(self.case.variant, self.case.options)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """All measurements; empty for failures."""
        return self.ok.measurements if self.ok else ()

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """Measurements that have samples."""
        return {m.metric: m for m in self.measurements if isinstance(m, Measured)}

    def summary(self, metric: str) -> Summary | None:
        """Summary of one metric; None if it was not measured, or is a time or rate of nothing."""
        if metric not in self._summaries:
            found = self.measured.get(metric)
            told = summary(found.rounds) if found else None
            # R305 finds them; whoever divides by a time need not
            nothing = told is not None and metric in _above_zero() and min(told.medians) <= 0
            self._summaries[metric] = None if nothing else told
        return self._summaries[metric]

    def samples(self, metric: str) -> tuple[float, ...]:
        """All samples of one metric, rounds joined."""
        found = self.measured.get(metric)
        return tuple(s for samples in found.rounds for s in samples) if found else ()

    @property
    def batch(self) -> int | None:
        """Sequences of a call: as it ran, else as it was asked for."""
        asked = self.timed.batch if self.timed else None
        return (self.ok.batch if self.ok else None) or asked

    @property
    def shape(self) -> AttentionShape | None:
        """Sizes of the call; None for tasks and frontiers, or where the batch is not known."""
        if self.workload is None or self.batch is None:
            return None
        return workload_shape(self.workload, self.batch)

    @property
    def spec(self) -> "AttentionSpec | None":
        """The variant, if the tree has it at the revision that was measured."""
        found = self.tree.spec(self.case.variant)
        if isinstance(found, UnknownName) or found.revision != self.record.variant_revision:
            return None
        return found

    @cached_property
    def options(self) -> Any:
        """The variant's options of this case; None where they are not its options."""
        return None if self.spec is None else options_of(self.spec, self.case.options)

    @cached_property
    def computable(self) -> "Computable | None":
        """What formulas need; None where the variant, its options or the shape are not valid."""
        spec, options, shape = self.spec, self.options, self.shape
        if spec is None or options is None or shape is None or spec.unsupported(shape, options):
            return None
        return Computable(spec, options, shape)

    def fault(self, message: str) -> Fault:
        """Return a fault that names this record."""
        case_id = self.case.id
        return Fault(self.file, f"records.{self.index} ({case_id}): {message}", (case_id,))


@dataclass(frozen=True, kw_only=True)
class RunUnderTest:
    """One accepted run and the tree it is judged by."""

    stored: StoredRun
    now: str
    """Time of the check, as in `Run.created`."""
    tree: Tree = field(default_factory=Tree)

    @property
    def run(self) -> Run:
        """Its header."""
        return self.stored.run

    @property
    def folder(self) -> str:
        """Where it lies below the results folder."""
        return f"{self.run.environment.hardware_id}/{self.run.run_id}"

    @cached_property
    def records(self) -> tuple[RecordUnderTest, ...]:
        """Every record with its place."""
        return tuple(
            RecordUnderTest(
                run=self.run,
                tree=self.tree,
                file=f"{file.variant}.json",
                index=i,
                record=record,
            )
            for file in self.stored.files
            for i, record in enumerate(file.records)
        )

    @cached_property
    def texts(self) -> dict[str, str]:
        """Everything that each file says, escapes resolved."""
        documents = {"run.json": self.run, **{f"{f.variant}.json": f for f in self.stored.files}}
        return {name: _unescaped(canonical(value)) for name, value in documents.items()}

    @cached_property
    def ceilings(self) -> dict[str, float]:
        """Best value of each measured limit of the machine."""
        return roofline.best(self.run.ceilings)


@dataclass(frozen=True, kw_only=True)
class ResultsUnderTest:
    """The whole results folder."""

    root: Path
    runs: tuple[RunUnderTest, ...]
    refusals: tuple[Refusal, ...]
    history: Ledger | None
    """What git knows; None outside of a checkout."""
    account: str | None
    """Who submits what is new; None: anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRule:
    """A rule about one run."""

    id: str
    severity: Severity
    help: str
    """What is wrong when it finds something, one sentence."""
    find: Callable[[RunUnderTest], Iterator[Fault]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRule:
    """A rule about all of results/; the files of its faults are relative to that folder."""

    id: str
    severity: Severity
    help: str
    find: Callable[[ResultsUnderTest], Iterator[Fault]]


def _unescaped(text: str) -> str:
    return re.sub(
        r"(?:\\u[0-9a-f]{4})+",
        lambda found: bytes.fromhex(found[0].replace("\\u", "")).decode(
            "utf-16-be", errors="replace"
        ),
        text,
    )


@cache
def _above_zero() -> frozenset[str]:
    return frozenset(metric.name for metric in metrics() if metric.unit in ABOVE_ZERO)


def one_line(text: str) -> str:
    """Return what contributors wrote as one printable line of bounded length.

    Findings are printed to terminals and to logs whose lines can be commands: a control character
    or line break of a contributor must not become one.
    """
    if len(text) <= LONGEST_MESSAGE and text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: 2 * LONGEST_MESSAGE])
    return shown if len(shown) <= LONGEST_MESSAGE else f"{shown[:LONGEST_MESSAGE]}..."


def same(a: float, b: float, relative: float) -> bool:
    """Whether two numbers agree to a relative difference."""
    return math.isclose(a, b, rel_tol=relative, abs_tol=0.0)
