"""Accuracy of every variant on the tasks that a machine can train in time, with three seeds.

Cost: about half an hour a variant on 2 CPU cores, reckoned from single trainings and not yet
measured as a whole; on a GPU, which also trains the large image tasks, twice that is a guess.
Expected result: recall and masked copy separate mechanisms by their capacity, digits hardly
separates any. A task whose data are missing is `not_run`, with what to do.
"""

from collections.abc import Iterator

from bench.cases import anchor, task_cases
from bench.model import Case, Plan, Protocol, unique_cases
from bench.plan import Scope

ON_CPU = (
    "digits", "fashion_mnist_49", "stacked_mqar_32", "stacked_mqar_128",
    "mqar_64", "mqar_128", "needle_64", "needle_256", "histogram_64",
    "histogram_256", "masked_copy_32", "masked_copy_128", "listops_64",
)  # fmt: skip
"""Short recipes; single softmax trainings took 9 to 110 s on one shared thread."""
ON_CUDA = (
    *ON_CPU, "needle_1024", "mqar_256", "histogram_1024", "masked_copy_512", "listops_256",
    "listops_1999", "fashion_mnist_196", "cifar10_64", "cifar10_256", "cifar100_64", "cifar100_256",
    "cifar10_jpeg_64", "cifar10_jpeg_256", "pathfinder_64", "pathfinder_256", "pathfinder_1024",
)  # fmt: skip
SEEDS = 3


def _cases(scope: Scope) -> Iterator[Case]:
    for task in ON_CPU if scope.device == "cpu" else ON_CUDA:
        for variant in scope.variants:
            yield from task_cases(variant, task, seeds=SEEDS)


def plan(scope: Scope) -> Plan:
    """Build the accuracy plan: no timed cases but the anchor, which shows drift."""
    return Plan(
        name="accuracy",
        purpose="Accuracy of every variant on images and sequences, three seeds each.",
        expected_minutes=(30.0 if scope.device == "cpu" else 60.0) * len(scope.variants),
        protocol=Protocol(
            rounds=1, warmup_s=0.1, warmup_cap_s=0.4, sample_s=0.1, least_samples=5,
            most_samples=60, sample_cap_s=1.5, timeout_s=7_200.0, anchor_every=25,
            memory_limit_bytes=None,
        ),
        cases=unique_cases(_cases(scope)),
        noise_pairs=(),
        anchor=anchor(scope),
    )  # fmt: skip
