"""What an analysis must declare, and how the analyses are found: one file each in bench/analyses.

An analysis asks why a mechanism is as accurate as it is. It looks at functions alone, or into
trained networks, which it gets from a `Study`: trained once from a seed, kept, and used again.
"""

import hashlib
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from attention_impls.registry import load, names_in, source_file, unknown
from bench.derived import LEAST_ROUNDS, student
from bench.learning import Learned, learn
from bench.model import Scalar
from bench.report import Figure, Network, Quantity
from bench.task import Assignment, Epoch, task

_FOLDER = Path(__file__).parent / "analyses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What pictures show."""

    image: int = 0
    """Of the test set."""
    head: int | None = None
    """Counted from 0; None: the mean of all."""
    query: tuple[int, int] | None = None
    """Row and column of the token, counted from 0; None: the one in the middle."""


@dataclass(slots=True, kw_only=True)
class Study:
    """What an analysis may use: variants, seeds, a device, and trained networks."""

    variants: tuple[str, ...]
    """Asked for on the command line; analyses leave out what they cannot look at."""
    seeds: tuple[int, ...] = (0,)
    """Of the trainings."""
    device: str = "cpu"
    task: str = "digits"
    """On which networks are trained."""
    look: Look = field(default_factory=Look)
    """For analyses that show pictures."""
    folder: Path | None = None
    """Where trained networks are kept; None: nowhere."""
    note: Callable[[str], None] = print
    """Told what is going on."""
    networks: list[Network] = field(default_factory=list[Network])
    """Every network that was asked for so far."""
    _learned: dict[tuple[Any, ...], Learned] = field(default_factory=dict[tuple[Any, ...], Learned])

    def of(self, *wanted: str) -> tuple[str, ...]:
        """Return those of `wanted` that are studied, in that order."""
        return tuple(name for name in wanted if name in self.variants)

    def trained(self, variant: str, seed: int, options: dict[str, Scalar] | None = None) -> Learned:
        """Return a network of `variant`, trained on the study's task, or read from the folder.

        Raises:
            UnsupportedShape: the variant cannot compute the task's grid.
            DivergedError: the training diverged.
        """
        chosen = options or {}
        key = (variant, seed, tuple(sorted(chosen.items())))
        if key not in self._learned:
            learned = self._train(variant, seed, chosen)
            self._learned[key] = learned
            of = task(self.task)
            self.networks.append(
                Network(
                    task=of.name,
                    recipe_sha256=of.recipe_sha256,
                    data_sha256=learned.result.training.data_sha256,
                    variant=variant,
                    variant_revision=load(variant).revision,
                    options=", ".join(f"{k}={v}" for k, v in sorted(chosen.items())),
                    seed=seed,
                    accuracy=learned.result.accuracy,
                )
            )
        return self._learned[key]

    def _train(self, variant: str, seed: int, chosen: dict[str, Scalar]) -> Learned:
        spec, of = load(variant), task(self.task)
        words = f"{variant}, seed {seed}, {of.name}"

        def report(epoch: Epoch) -> None:
            self.note(
                f"{words}: epoch {epoch.number}/{epoch.epochs}, loss {epoch.loss:.3f}, "
                f"accuracy {100 * epoch.accuracy:.1f} %"
            )

        assignment = Assignment(
            spec=spec,
            options=replace(spec.options, **chosen),
            seed=seed,
            device=self.device,
            checkpoint=self.place(variant, seed, chosen),
            report=report,
        )
        return learn(of, assignment)

    def place(
        self, variant: str, seed: int, chosen: dict[str, Scalar], sources: Sequence[Path] = ()
    ) -> Path | None:
        """Name the file of a trained network after everything that decides its weights.

        Args:
            variant: its mechanism.
            seed: of the training.
            chosen: what differs from the defaults.
            sources: files beside the variant's own that decide what is trained.
        """
        if self.folder is None:
            return None
        parts = (
            task(self.task).recipe_sha256,
            source_file(variant).read_bytes().hex(),
            sorted(chosen.items()),
            self.device,
            torch.__version__,
            torch.get_num_threads(),
            *(path.read_bytes().hex() for path in sources),
        )
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
        return self.folder / self.task / f"{variant}-seed{seed}-{digest}.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an analysis found: numbers only."""

    quantities: tuple[Quantity, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What the numbers say."""

    finding: str
    """One sentence, written from the numbers."""
    agrees: bool | None
    """Whether that is what the paper claims; None where the numbers cannot tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One question about trained attention. The last object of its file."""

    name: str
    """Identifier; equals the file's name."""
    title: str
    question: str
    """What it answers, one sentence."""
    claim: str
    """What a paper says about it, in a sentence with its source; empty where none does."""
    paper_scale: str = ""
    """Networks and data that the paper says it of; empty where it says nothing."""
    revision: int
    """Raised when the numbers change for the same networks."""
    variants: tuple[str, ...]
    """Looked at unless others are asked for."""
    run: Callable[[Study], Findings]
    conclude: Callable[[Sequence[Quantity]], Conclusion]
    """Reads nothing but the numbers of the report, so that both can be compared at any time."""


def analysis_names() -> tuple[str, ...]:
    """Return the names of all analyses, sorted."""
    return names_in(_FOLDER)


@cache
def analysis(name: str) -> Analysis:
    """Return analysis `name`.

    Raises:
        UnknownName: no such file.
        TypeError: the file has no `ANALYSIS` of that name.
    """
    if name not in analysis_names():
        raise unknown("analysis", name, analysis_names())
    found = getattr(importlib.import_module(f"bench.analyses.{name}"), "ANALYSIS", None)
    if not isinstance(found, Analysis) or found.name != name:
        raise TypeError(f"bench/analyses/{name}.py: ANALYSIS is missing or has another name")
    return found


def by_setting(quantities: Sequence[Quantity], name: str) -> dict[str | None, dict[str, float]]:
    """Return every value of the quantity `name`: by variant, then by setting, in their order."""
    found: dict[str | None, dict[str, float]] = {}
    for one in quantities:
        if one.name == name:
            found.setdefault(one.variant, {})[one.setting] = one.value
    return found


def by_seed(
    quantities: Sequence[Quantity], name: str
) -> dict[str | None, dict[str, dict[int, float]]]:
    """Return every value of the quantity `name`: by variant, setting, and seed.

    Settings end with `, seed <n>`; one that does not is of a single training, from seed 0.
    """
    found: dict[str | None, dict[str, dict[int, float]]] = {}
    for variant, of in by_setting(quantities, name).items():
        for words, value in of.items():
            setting, mark, seed = words.rpartition(", seed ")
            settings = found.setdefault(variant, {})
            settings.setdefault(setting if mark else words, {})[int(seed) if mark else 0] = value
    return found


def title(variant: str | None) -> str:
    """Name of a variant for sentences; `no variant` for what belongs to none."""
    return "no variant" if variant is None else load(variant).title


def together(verdicts: Sequence[bool | None]) -> bool | None:
    """One verdict of several: no if one says no, yes if all say yes, else it cannot be told."""
    if any(one is False for one in verdicts):
        return False
    return True if verdicts and all(verdicts) else None


def mean_gap(gaps: Sequence[float]) -> tuple[float, float] | None:
    """Mean of differences, one a seed, and half of its 95 % t-interval; None: under three seeds."""
    if len(gaps) < LEAST_ROUNDS:
        return None
    return fmean(gaps), student(len(gaps) - 1) * stdev(gaps) / math.sqrt(len(gaps))


def surely_positive(gaps: Sequence[float]) -> bool | None:
    """Whether the mean of differences, one a seed, is above zero; False: below; None: not sure."""
    found = mean_gap(gaps)
    if found is None or abs(found[0]) <= found[1]:
        return None
    return found[0] > 0


def quantity(variant: str | None, name: str, value: float, setting: str = "") -> Quantity:
    """One number."""
    return Quantity(variant=variant, name=name, setting=setting, value=float(value))
