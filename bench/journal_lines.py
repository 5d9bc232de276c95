"""What the lines of a journal say: the run's header, then visits and arrivals as they happen."""

from typing import Annotated

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass as noun

from bench.model import (
    Ceiling,
    Count,
    Environment,
    Instant,
    Name,
    NonNegative,
    Outcome,
    Plan,
    Sha256,
    TaskVersion,
    Text,
    Visit,
    Whole,
)

FORMAT = 3
"""Version of the journal's lines."""
_STRICT = pydantic.ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
)


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class VariantSource:
    """Which state of a variant is measured."""

    revision: Count
    source_sha256: Sha256


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Header:
    """First line: what runs, where, with which code."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT
    plan: Plan
    environment: Environment
    ceilings: tuple[Ceiling, ...]
    created: Instant
    """Start of the run, UTC."""
    suite_version: Text
    commit: str | None
    dirty: bool
    only: Text | None
    variants: dict[Name, VariantSource]
    """Every variant of the plan."""
    tasks: dict[Name, TaskVersion]
    """Every task of the plan."""
    variant_files: tuple[str, ...]
    """Variants from outside the tree, as paths of this machine; not published."""


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Attempt:
    """A visit that was begun and lost with its slot: no fault of the case, made again elsewhere."""

    slot: str
    """Node and device, as in the entry."""
    reason: str
    """What happened to the slot."""


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Entry:
    """One visit and how it went."""

    case_id: str
    round: Whole
    repetition: Whole
    outcome: Outcome
    wall_s: NonNegative
    """From the end of the visit before to the end of this one."""
    measured_s: NonNegative
    """Time inside measured calls."""
    foreign_load: NonNegative | None
    """CPUs kept busy by others meanwhile; None where the visit was too short to tell."""
    slot: str | None = None
    """Node and device that made it; None where no device was needed. Not published."""
    attempts: tuple[Attempt, ...] = ()
    """Earlier attempts that were lost with their slots, in their order."""

    @property
    def visit(self) -> Visit:
        """The visit's key."""
        return Visit(self.case_id, self.round, self.repetition)


@noun(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Arrival:
    """A slot that took part, with its own measured limits."""

    ceilings: tuple[Ceiling, ...]
    slot: str
    """Node and device."""
