"""Rules that look at several runs at once: no copies, nothing picked, no unexplained outlier."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from bench.model import REPRODUCTION
from bench.rules.rule import Fault, RecordUnderTest, ResultsUnderTest, RunUnderTest, TreeRule
from bench.rules.statistics import timed

_LEAST_COPIED = 5
"""Samples from which equal rounds cannot be chance."""
_LEAST_PARTLY = 10
"""Samples from which rounds that are equal in most places cannot be chance."""
_PARTLY = 0.8
_BLOCK = 4
"""With fewer than a fifth changed, one block of four neighbours is always as it was."""
_LONGEST_ROUND = 2**20
"""Samples of a round whose blocks are looked at."""
_MOST_ALIKE = 100
"""Places of one block that are kept: a coarse clock repeats itself, a copy has other blocks too."""
_OUTLIER = 1.5
_OTHER_CEILING = 3.0
"""A busy machine reaches half of its ceilings, or a third."""
_CLOCK_ERROR = timedelta(hours=24)
"""Clocks of contributors may be wrong by this much."""

_Place = tuple[RunUnderTest, RecordUnderTest]


def _commit_unknown(results: ResultsUnderTest) -> Iterator[Fault]:
    commits = results.history.commits if results.history else None
    if commits is None:
        return
    for run in results.runs:
        commit = run.run.commit
        if commit is not None and commit not in commits:
            yield Fault(
                f"{run.folder}/run.json",
                f"commit {commit[:10]} is not in the history of this repository: nobody else can "
                "get the code that ran; measure from a commit of the main branch",
            )


def _copied(results: ResultsUnderTest) -> Iterator[Fault]:
    seen = _Rounds()
    for run in results.runs:
        for one in run.records:
            for name, measured in timed(one):
                for round_ in measured.rounds:
                    samples = tuple(map(float, round_))
                    found = seen.copied(samples, one)
                    if found is not None:
                        share, (other_run, other) = found
                        yield _placed(
                            run,
                            one,
                            f"{share:.0%} of a round of {name} is, sample by sample, from "
                            f"{other.case.id} in {other_run.run.run_id}: measure it",
                        )
                    else:
                        seen.add(samples, (run, one))


class _Rounds:
    """Rounds that were seen, and where blocks of their samples stand.

    Millions of blocks are kept: by the hash of a block a number, which says round and place in it.
    """

    def __init__(self) -> None:
        self._rounds: list[tuple[tuple[float, ...], _Place]] = []
        self._whole: dict[tuple[float, ...], int] = {}
        self._blocks: dict[int, int] = {}
        self._more: dict[int, list[int]] = {}
        """Places of a block after its first."""

    def copied(
        self, samples: tuple[float, ...], one: RecordUnderTest
    ) -> tuple[float, _Place] | None:
        """The share of the samples that an earlier round of another record has, and where."""
        if len(samples) < _LEAST_COPIED or len(set(samples)) == 1:
            return None
        whole = self._whole.get(samples)
        if whole is not None and self._rounds[whole][1][1] is not one:
            return 1.0, self._rounds[whole][1]
        if len(set(samples)) < _LEAST_COPIED or len(samples) < _LEAST_PARTLY:
            return None
        for at in range(len(samples) - _BLOCK + 1):
            key = hash(samples[at : at + _BLOCK])
            if key not in self._blocks:
                continue
            for known in (self._blocks[key], *self._more.get(key, ())):
                number, there = divmod(known, _LONGEST_ROUND)
                other, place = self._rounds[number]
                share = _agreeing(samples, other, there - at)
                if share >= _PARTLY and place[1] is not one:
                    return share, place
        return None

    def add(self, samples: tuple[float, ...], place: _Place) -> None:
        """Remember a round."""
        if len(samples) < _LEAST_COPIED or len(set(samples)) == 1:
            return
        number = len(self._rounds)
        self._rounds.append((samples, place))
        self._whole.setdefault(samples, number)
        if len(samples) < _LEAST_PARTLY:
            return
        for at in range(0, min(len(samples), _LONGEST_ROUND) - _BLOCK + 1, _BLOCK):
            block = samples[at : at + _BLOCK]
            if len(set(block)) > 1:
                key, known = hash(block), number * _LONGEST_ROUND + at
                if self._blocks.setdefault(key, known) != known:
                    more = self._more.setdefault(key, [])
                    if len(more) < _MOST_ALIKE:
                        more.append(known)


def _agreeing(samples: tuple[float, ...], other: tuple[float, ...], shift: int) -> float:
    """The share of the samples that stand in the other round, so many places later."""
    pairs = [
        samples[n] == other[n + shift] for n in range(len(samples)) if 0 <= n + shift < len(other)
    ]
    return sum(pairs) / len(samples)


def _outliers(results: ResultsUnderTest) -> Iterator[Fault]:
    found: dict[tuple[str, str, int], list[tuple[float, RunUnderTest, RecordUnderTest]]]
    found = defaultdict(list)
    for run in results.runs:
        for one in run.records:
            if latency := one.summary("latency"):
                key = (
                    run.run.environment.hardware_id,
                    one.case.id,
                    one.record.variant_revision,
                )
                found[key].append((latency.value, run, one))
    for several in found.values():
        ordered = sorted(value for value, _, _ in several)
        for value, run, one in several[1:]:
            others = _median_of_others(ordered, value)
            if not 1 / _OUTLIER < value / others < _OUTLIER:
                yield _placed(
                    run, one, f"latency {value:.3g} s, other runs of this machine {others:.3g} s"
                )


def _median_of_others(ordered: Sequence[float], value: float) -> float:
    """Median of sorted values, one `value` of them left out, without going through all."""
    left_out, rest = bisect_left(ordered, value), len(ordered) - 1
    middle = [n + (n >= left_out) for n in ((rest - 1) // 2, rest // 2)]
    return (ordered[middle[0]] + ordered[middle[1]]) / 2


def _again(results: ResultsUnderTest) -> Iterator[Fault]:
    first: dict[tuple[str | None, ...], RunUnderTest] = {}
    for run in results.runs:
        header = run.run
        if header.plan == REPRODUCTION or header.commit is None:
            continue
        key = (
            header.environment.hardware_id, header.submitted_by, header.plan_digest, header.commit,
        )  # fmt: skip
        other = first.setdefault(key, run)
        if other is not run:
            yield Fault(
                f"{run.folder}/run.json",
                f"the same plan, machine, commit and account as {other.run.run_id}: the first "
                "quiet run counts, not the best of several; say in the pull request why it was "
                "measured again",
            )


def _other_data(results: ResultsUnderTest) -> Iterator[Fault]:
    digests: dict[tuple[str, str], tuple[str, RunUnderTest]] = {}
    for run in results.runs:
        for one in run.records:
            task, version = one.record.case.stimulus, one.record.task
            training = one.ok.training if one.ok else None
            if task.kind != "task" or training is None:
                continue
            if version is None or version.recipe_sha256 is None:
                continue
            key = (task.task, version.recipe_sha256)
            digest, other = digests.setdefault(key, (training.data_sha256, run))
            if digest != training.data_sha256 and other is not run:
                yield _placed(
                    run,
                    one,
                    f"data of {task.task} are {training.data_sha256[:12]}, run "
                    f"{other.run.run_id} trained by the same recipe on {digest[:12]}: find out "
                    "which data are the task's",
                )
                break


def _older_than_its_code(results: ResultsUnderTest) -> Iterator[Fault]:
    commits = (results.history.commits if results.history else None) or {}
    for run in results.runs:
        made = commits.get(run.run.commit or "")
        began = datetime.fromisoformat(run.run.created)
        if made is not None and datetime.fromtimestamp(made, UTC) > began + _CLOCK_ERROR:
            yield Fault(
                f"{run.folder}/run.json",
                f"created {run.run.created}, but its commit {(run.run.commit or '')[:10]} was made "
                f"later, {datetime.fromtimestamp(made, UTC):%Y-%m-%dT%H:%M:%SZ}: set the clock of "
                "the machine, and measure again",
            )


def _other_ceilings(results: ResultsUnderTest) -> Iterator[Fault]:
    found: dict[tuple[str, int, str], list[tuple[float, RunUnderTest]]] = defaultdict(list)
    for run in results.runs:
        environment = run.run.environment
        for name, best in run.ceilings.items():
            key = (environment.hardware_id, environment.threads, name)
            found[key].append((best, run))
    for (_, _, name), several in found.items():
        ordered = sorted(best for best, _ in several)
        for best, run in several[1:]:
            others = _median_of_others(ordered, best)
            if not 1 / _OTHER_CEILING < best / others < _OTHER_CEILING:
                yield Fault(
                    f"{run.folder}/run.json",
                    f"ceiling {name} is {best:.3g}, other runs of this machine {others:.3g}: "
                    "efficiencies of this run do not compare with theirs",
                )


def _placed(run: RunUnderTest, one: RecordUnderTest, message: str) -> Fault:
    fault = one.fault(message)
    return Fault(f"{run.folder}/{one.file}", fault.message, fault.case_ids)


RULES = (
    TreeRule(id="R213", severity="review", help="A commit nobody has.", find=_commit_unknown),
    TreeRule(id="R216", severity="review", help="Before its code.", find=_older_than_its_code),
    TreeRule(id="R701", severity="error", help="Copied samples.", find=_copied),
    TreeRule(id="R702", severity="flag", help="Far from other runs.", find=_outliers),
    TreeRule(id="R703", severity="review", help="Measured several times.", find=_again),
    TreeRule(id="R704", severity="review", help="Trained on other data.", find=_other_data),
    TreeRule(id="R705", severity="flag", help="Ceilings of another machine.", find=_other_ceilings),
)
