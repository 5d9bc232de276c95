"""Accuracies: all seeds of one variant on one task, with what they have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from bench.derived import Standing, apart, mean_of_seeds, ranks
from leaderboard.results import Result, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One variant on one task: all its seeds."""

    variant: str
    seeds: tuple[Result, ...]
    mean: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half the interval over the seeds, uncut: shown ends stop at 0 and 1, this does not."""
        if self.low is None or self.high is None:
            return None
        return max(self.mean - self.low, self.high - self.mean)

    @property
    def standing(self) -> Standing:
        """What ranking needs."""
        return Standing(value=self.mean, low=self.low, high=self.high)


def trained(results: Sequence[Result], task: str) -> tuple[Trained, ...]:
    """Return the mean over seeds of every variant that finished, best first."""
    runs: dict[str, list[Result]] = {}
    for result in results:
        if result.task == task and result.ok and not result.stale and "accuracy" in result.numbers:
            runs.setdefault(result.variant, []).append(result)
    found: list[Trained] = []
    for variant, seeds in sorted(runs.items()):
        mean, low, high = mean_of_seeds([r.numbers["accuracy"].value for r in seeds])
        found.append(Trained(variant=variant, seeds=tuple(seeds), mean=mean, low=low, high=high))
    return tuple(sorted(found, key=lambda t: (-t.mean, t.variant)))


def accuracy_ranks(done: Sequence[Trained]) -> tuple[int, ...]:
    """Return ranks in the order of `done`; variants whose intervals overlap share one."""
    return ranks([t.standing for t in done], better="higher", noise_floor=None, varies=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """How well one task tells variants apart."""

    variants: int
    pairs: int
    """Pairs of variants with an interval each."""
    told_apart: int
    """Pairs whose intervals do not overlap."""
    spread: float
    """Best mean - worst mean."""
    half_width: float | None
    """Median half width of the intervals; None: no variant has one."""

    @property
    def share(self) -> float | None:
        """Share of the pairs that are told apart; None without pairs."""
        return self.told_apart / self.pairs if self.pairs else None

    @property
    def separates(self) -> bool:
        """At least one pair is told apart."""
        return self.told_apart > 0


def separation(done: Sequence[Trained]) -> Separation:
    """Return how well a task separates the variants that were trained on it.

    Raises:
        ValueError: nothing was trained.
    """
    if not done:
        raise ValueError("no training: nothing can be separated")
    bounded = [t.standing for t in done if t.standing.ends is not None]
    pairs = list(combinations(bounded, 2))
    halves = [t.half_width for t in done if t.half_width is not None]
    means = [t.mean for t in done]
    return Separation(
        variants=len(done),
        pairs=len(pairs),
        told_apart=sum(apart(a, b, noise_floor=None, varies=True) for a, b in pairs),
        spread=max(means) - min(means),
        half_width=median(halves) if halves else None,
    )


def with_results(view: View) -> tuple[tuple[str, str], ...]:
    """Return every (task, machine) that has been tried, tasks by name, best machine first."""
    tried = {(r.task, r.hardware_id) for r in view.results if r.task is not None}
    return tuple(
        (task, hardware_id)
        for task in sorted(view.tasks)
        for hardware_id in view.machines
        if (task, hardware_id) in tried
    )


def of_task(view: View, task: str, hardware_id: str) -> tuple[Result, ...]:
    """Return every training for one task on one machine."""
    return tuple(r for r in view.results if r.task == task and r.hardware_id == hardware_id)
