"""What is about to run, where, with which code: the header of a run, and what must not differ."""

import hashlib
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from attention_impls import registry
from bench import launch
from bench.checkout import checkout
from bench.journal_lines import Header, VariantSource
from bench.model import Ceiling, DeviceKind, Environment, Plan, TaskRun, TaskVersion
from bench.task import task


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Which code measures: all of it must be the same on every node of a run."""

    suite_version: str
    commit: str | None
    variants: dict[str, VariantSource]
    tasks: dict[str, TaskVersion]

    @classmethod
    def here(cls, plan: Plan) -> "Code":
        """The code of this process."""
        code = checkout()
        return cls(
            suite_version=code.version,
            commit=code.commit,
            variants=describe_variants(plan),
            tasks=describe_tasks(plan),
        )

    @classmethod
    def of(cls, header: Header) -> "Code":
        """The code that a header names."""
        return cls(
            suite_version=header.suite_version,
            commit=header.commit,
            variants=dict(header.variants),
            tasks=dict(header.tasks),
        )

    def differences(self, other: "Code") -> list[str]:
        """Say by name what differs in `other`."""
        found = [
            f"{name} is {getattr(other, name)}, not {getattr(self, name)}"
            for name in ("suite_version", "commit")
            if getattr(self, name) != getattr(other, name)
        ]
        for kind, ours, theirs in (
            ("variant", self.variants, other.variants),
            ("task", self.tasks, other.tasks),
        ):
            for name in sorted(ours.keys() | theirs.keys()):
                if ours.get(name) != theirs.get(name):
                    found.append(f"{kind} {name} is {theirs.get(name)}, not {ours.get(name)}")
        return found


def described(
    plan: Plan, device: DeviceKind, threads: int, only: str | None, together: int = 1
) -> Header:
    """Read this machine, measure its limits, and say what is about to run.

    Raises:
        LaunchError: the worker that measures the machine failed.
    """
    return header_of(plan, only, *launch.measure_machine(device, threads, together))


def header_of(
    plan: Plan, only: str | None, environment: Environment, ceilings: tuple[Ceiling, ...]
) -> Header:
    """Say what is about to run on a machine that was measured, with the code of this process."""
    code = checkout()
    return Header(
        plan=plan,
        environment=environment,
        ceilings=ceilings,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        suite_version=code.version,
        commit=code.commit,
        dirty=code.dirty or bool(registry.outside_files()),
        only=only,
        variants=describe_variants(plan),
        tasks=describe_tasks(plan),
        variant_files=tuple(str(path) for path in registry.outside_files()),
    )


def describe_variants(plan: Plan) -> dict[str, VariantSource]:
    """Revision and source digest of every variant that `plan` names."""
    cases = (*plan.cases, *plan.noise_pairs, plan.anchor)
    return {
        name: VariantSource(
            revision=registry.load(name).revision,
            source_sha256=hashlib.sha256(registry.source_file(name).read_bytes()).hexdigest(),
        )
        for name in sorted({case.variant for case in cases})
    }


def describe_tasks(plan: Plan) -> dict[str, TaskVersion]:
    """Revision and recipe digest of every task that `plan` trains."""
    stimuli = [case.stimulus for case in plan.cases]
    trained = sorted({one.task for one in stimuli if isinstance(one, TaskRun)})
    return {
        name: TaskVersion(revision=task(name).revision, recipe_sha256=task(name).recipe_sha256)
        for name in trained
    }


def environment_differences(ours: Environment, theirs: Environment) -> list[str]:
    """Say by name what differs between two devices that would share one run.

    A run states one environment: a device under another driver, clock or CPU would be described
    wrongly. Memory may differ by what the system keeps for itself; the hardware id rounds it.
    """
    return [
        f"{field.name} is {getattr(theirs, field.name)}, not {getattr(ours, field.name)}"
        for field in fields(ours)
        if field.name != "device_memory_bytes"
        and getattr(theirs, field.name) != getattr(ours, field.name)
    ]
