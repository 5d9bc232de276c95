"""Rules that look at several runs at once: no copies, nothing picked, no unexplained outlier."""

from collections import defaultdict
from collections.abc import Iterator
from statistics import median

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
_OUTLIER = 1.5

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
    whole: dict[tuple[float, ...], _Place] = {}
    blocks: dict[tuple[float, ...], list[tuple[int, tuple[float, ...], _Place]]]
    blocks = defaultdict(list)
    for run in results.runs:
        for one in run.records:
            for name, measured in timed(one):
                for round_ in measured.rounds:
                    samples = tuple(map(float, round_))
                    if len(samples) < _LEAST_COPIED or len(set(samples)) == 1:
                        continue
                    place = whole.setdefault(samples, (run, one))
                    share = 1.0
                    if place[1] is one and len(set(samples)) >= _LEAST_COPIED:
                        share, place = _mostly(samples, blocks) or (1.0, (run, one))
                    if place[1] is not one:
                        yield _placed(
                            run,
                            one,
                            f"{share:.0%} of a round of {name} is, sample by sample, from "
                            f"{place[1].case.id} in {place[0].run.run_id}: measure it",
                        )
                    elif len(samples) >= _LEAST_PARTLY:
                        for at in range(0, len(samples) - _BLOCK + 1, _BLOCK):
                            block = samples[at : at + _BLOCK]
                            if len(set(block)) > 1:
                                blocks[block].append((at, samples, (run, one)))


def _mostly(
    samples: tuple[float, ...],
    blocks: dict[tuple[float, ...], list[tuple[int, tuple[float, ...], _Place]]],
) -> tuple[float, _Place] | None:
    """An earlier round that agrees in most places, maybe shifted, and the share of those."""
    if len(samples) < _LEAST_PARTLY:
        return None
    for at in range(len(samples) - _BLOCK + 1):
        for there, other, place in blocks.get(samples[at : at + _BLOCK], ()):
            shift = there - at
            pairs = [
                samples[n] == other[n + shift]
                for n in range(len(samples))
                if 0 <= n + shift < len(other)
            ]
            share = sum(pairs) / len(samples)
            if share >= _PARTLY:
                return share, place
    return None


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
        for value, run, one in several[1:]:
            others = median(v for v, _, other in several if other is not one)
            if not 1 / _OUTLIER < value / others < _OUTLIER:
                yield _placed(
                    run, one, f"latency {value:.3g} s, other runs of this machine {others:.3g} s"
                )


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


def _placed(run: RunUnderTest, one: RecordUnderTest, message: str) -> Fault:
    fault = one.fault(message)
    return Fault(f"{run.folder}/{one.file}", fault.message, fault.case_ids)


RULES = (
    TreeRule(id="R213", severity="review", help="A commit nobody has.", find=_commit_unknown),
    TreeRule(id="R701", severity="error", help="Copied samples.", find=_copied),
    TreeRule(id="R702", severity="flag", help="Far from other runs.", find=_outliers),
    TreeRule(id="R703", severity="review", help="Measured several times.", find=_again),
    TreeRule(id="R704", severity="review", help="Trained on other data.", find=_other_data),
)
