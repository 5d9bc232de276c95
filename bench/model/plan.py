"""How it is measured: the protocol, a plan, and the visits that a running plan makes."""

import hashlib
from dataclasses import dataclass

from bench.model.case import Case
from bench.model.json_form import canonical
from bench.model.noun import Count, Name, Positive, Text, Whole, noun

PROTOCOL_VERSION = 1
"""Version of how we measure; results compare only within one version."""
REPRODUCTION = "repro"
"""Plan name of a run that repeats one published row."""


@noun
class Protocol:
    """How each case is measured. Every number that could change a result stands here."""

    version: Count = PROTOCOL_VERSION
    """Results compare only within one version."""
    rounds: Count = 3
    """Visits to every timed case, each in a new process, over the whole plan in shuffled order."""
    warmup_s: Positive = 0.1
    """Least warm-up time."""
    warmup_cap_s: Positive = 2.0
    """Warm-up ends here even if the last medians differ by more than 1 %."""
    sample_s: Positive = 0.15
    """Least time inside samples, per round."""
    least_samples: Count = 5
    """Least samples per round, unless one call takes longer than `sample_cap_s`."""
    most_samples: Count = 100
    """Samples kept per round."""
    sample_cap_s: Positive = 4.0
    """Sampling ends here."""
    timeout_s: Positive = 60.0
    """Wall time after which a case's process is killed."""
    memory_limit_bytes: Count | None = None
    """Address space a CPU worker may use beyond its start; None: no limit."""
    anchor_every: Count = 20
    """An anchor case (softmax by SDPA, fixed shape) runs after so many cases."""
    seed: Whole = 0
    """Seed of the shuffled order; the only random choice in a run."""


@noun
class Plan:
    """Which cases, and how."""

    name: Name
    """File name under bench/plans."""
    purpose: Text
    """What the plan is for, one sentence."""
    expected_minutes: Positive
    """Wall time on the machine named in the plan's docstring."""
    protocol: Protocol
    """How each case is measured."""
    cases: tuple[Case, ...]
    """Every cell, in a stable order without duplicates."""
    noise_pairs: tuple[Case, ...] = ()
    """Cases that run twice in each round (A/A): their ratio is the noise floor of the run."""
    anchor: Case
    """The case that is repeated through the run to see drift."""

    @property
    def digest(self) -> str:
        """sha256 of what is measured and how; the words about it and its cost do not count."""
        measured = canonical((self.name, self.protocol, self.cases, self.noise_pairs, self.anchor))
        return hashlib.sha256(measured.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Visit:
    """One turn of one case in a running plan: which round, and which of its repetitions."""

    case_id: str
    round: int
    repetition: int
    """0, or 1 for the second of an A/A pair, or the running number of an anchor."""
