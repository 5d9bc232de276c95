"""Rules about trained accuracy: within range, countable, one per seed."""

import math
from collections import defaultdict
from collections.abc import Iterator

from bench.model import TaskRun
from bench.rules.rule import Fault, RecordUnderTest, RunRule, RunUnderTest
from bench.task import Task, task, tasks

_LEAST_SEEDS = 3
_ROUNDING = 1e-5
"""Relative error of a stored sample, see submission.SIGNIFICANT_DIGITS."""


def _trained(under: RunUnderTest) -> Iterator[tuple[RecordUnderTest, TaskRun, Task, float]]:
    known = {one.name for one in tasks()}
    for one in under.records:
        found, stimulus = one.summary("accuracy"), one.case.stimulus
        if found and isinstance(stimulus, TaskRun) and stimulus.task in known:
            yield one, stimulus, task(stimulus.task), found.value


def _countable(under: RunUnderTest) -> Iterator[Fault]:
    for one, _, of, accuracy in _trained(under):
        if of.test_items is None or of.test_items * _ROUNDING > 0.1:
            continue
        correct = accuracy * of.test_items
        if abs(correct - round(correct)) > of.test_items * _ROUNDING + 1e-6:
            yield one.fault(
                f"accuracy {accuracy} of {of.test_items} items is {correct:.3f} correct answers, "
                "must be a whole number"
            )


def _chance(under: RunUnderTest) -> Iterator[Fault]:
    for one, _, of, accuracy in _trained(under):
        if of.test_items is None:
            continue
        spread = math.sqrt(of.chance * (1 - of.chance) / of.test_items)
        if accuracy < of.chance - 3 * spread:
            yield one.fault(f"accuracy {accuracy:.4g} is below chance, {of.chance:.4g}")


def _seeds(under: RunUnderTest) -> Iterator[Fault]:
    for (variant, name), found in _by_task(under).items():
        losses = {one.samples("loss") for one in found}
        times = {one.samples("training_time") for one in found}
        if len(found) > 1 and any(losses) and (len(losses) == 1 or len(times) == 1):
            yield Fault(
                f"{variant}.json",
                f"all {len(found)} seeds of {name} gave the same loss or time, must differ: train "
                "each seed by itself",
                tuple(one.case.id for one in found),
            )


def _few_seeds(under: RunUnderTest) -> Iterator[Fault]:
    for (variant, name), found in _by_task(under).items():
        if len(found) < _LEAST_SEEDS:
            yield Fault(
                f"{variant}.json",
                f"{len(found)} seeds of {name}: no interval below {_LEAST_SEEDS}",
                tuple(one.case.id for one in found),
            )


def _stated(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        version = one.record.task
        if isinstance(one.case.stimulus, TaskRun) != (version is not None):
            told = "a task without the state" if version is None else "no task, but a state"
            yield one.fault(f"{told} of the task: revision and recipe digest")
        if version is None or version.recipe_sha256 is None or one.ok is None:
            continue
        if one.ok.training is None:
            yield one.fault("ok without `training`: the digest of the data is missing")
            continue
        training = one.ok.training
        curves = (training.losses, training.accuracies, training.gradient_norms, training.clipped)
        if len({len(curve) for curve in curves}) > 1:
            lengths = ", ".join(str(len(curve)) for curve in curves)
            yield one.fault(f"curves of {lengths} epochs in one training: must be equally long")


def _same_data(under: RunUnderTest) -> Iterator[Fault]:
    digests: dict[tuple[str, str | None], dict[str, RecordUnderTest]] = defaultdict(dict)
    for one in under.records:
        stimulus, version, ok = one.case.stimulus, one.record.task, one.ok
        if isinstance(stimulus, TaskRun) and version and ok and ok.training:
            of_task = digests[stimulus.task, version.recipe_sha256]
            of_task.setdefault(ok.training.data_sha256, one)
    for (name, _), found in digests.items():
        for sha256, one in list(found.items())[1:]:
            yield one.fault(
                f"data of {name} are {sha256[:12]}, other rows of this run have "
                f"{next(iter(found))[:12]}: they cannot be compared"
            )


def _epochs(under: RunUnderTest) -> Iterator[Fault]:
    known = {of.name: of for of in tasks()}
    for one in under.records:
        stimulus, version, ok = one.case.stimulus, one.record.task, one.ok
        if not isinstance(stimulus, TaskRun) or ok is None or ok.training is None:
            continue
        of, training = known.get(stimulus.task), ok.training
        epochs = len(training.losses)
        if of and version and version.recipe_sha256 == of.recipe_sha256:
            if epochs != of.training.epochs:
                yield one.fault(
                    f"curves of {epochs} epochs, the recipe has {of.training.epochs}: leave them "
                    "as they were recorded"
                )
            mixed = of.training.precision == "mixed" and under.run.environment.device == "cuda"
            if training.precision not in (("float32", "bfloat16") if mixed else ("float32",)):
                yield one.fault(
                    f"trained in {training.precision}, the recipe does not on this device"
                )
        resumed = training.resumed_after
        if list(resumed) != sorted(resumed) or (resumed and resumed[-1] >= epochs):
            yield one.fault(f"resumed after epochs {list(resumed)} of {epochs}: not in this order")


def _loss(under: RunUnderTest) -> Iterator[Fault]:
    """A wrong answer gives the right one half of the probability at most."""
    for one, _, _, accuracy in _trained(under):
        loss = one.summary("loss")
        least = (1 - accuracy) * math.log(2)
        if loss is not None and loss.value < (1 - 10 * _ROUNDING) * least:
            yield one.fault(
                f"loss {loss.value:.4g} with accuracy {accuracy:.4g}: the wrong answers alone give "
                f"{least:.4g}"
            )


def _by_task(under: RunUnderTest) -> dict[tuple[str, str], list[RecordUnderTest]]:
    found: dict[tuple[str, str], list[RecordUnderTest]] = defaultdict(list)
    for one, stimulus, _, _ in _trained(under):
        if not one.case.options:
            found[one.case.variant, stimulus.task].append(one)
    return found


RULES = (
    RunRule(id="R601", severity="error", help="Not a ratio of counts.", find=_countable),
    RunRule(id="R602", severity="review", help="Worse than guessing.", find=_chance),
    RunRule(id="R603", severity="error", help="Seeds without effect.", find=_seeds),
    RunRule(id="R604", severity="flag", help="Too few seeds.", find=_few_seeds),
    RunRule(id="R605", severity="error", help="A task without its state.", find=_stated),
    RunRule(id="R606", severity="error", help="Trained on different data.", find=_same_data),
    RunRule(id="R607", severity="error", help="Not the recipe's training.", find=_epochs),
    RunRule(id="R608", severity="error", help="A loss too small.", find=_loss),
)
