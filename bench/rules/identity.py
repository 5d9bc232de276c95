"""Rules about who, where and with which code: every name resolves, every fact is complete."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import fields

from attention_impls.registry import UnknownName, backbones, source_file
from bench.asked_layer import option_faults
from bench.devices_together import together_of
from bench.metric import metrics
from bench.model import (
    PROTOCOL_VERSION,
    REPRODUCTION,
    Images,
    TaskRun,
    TaskVersion,
)
from bench.plan import plan_names
from bench.rules.rule import Fault, RecordUnderTest, RunRule, RunUnderTest
from bench.task import task, tasks

_PRIVATE = {
    "a home folder": r"(?:/home/|/Users/|/root/|[A-Z]:\\Users\\)[^\s\"]*",
    "an e-mail or login address": r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "a secret": r"\b(?:gh[pousr]_\w{20,}|hf_\w{20,}|AKIA[0-9A-Z]{16}|sk-[\w-]{20,})",
}
_ADDRESS = r"\b(?:\d{1,3}\.){3}\d{1,3}(?![.\d])\b"
_VERSION_FIELDS = ("os", "driver", "cudnn", "cuda")
_VERSION = re.compile(r"v?\d[0-9A-Za-z.+!_\-]*")
_OF_A_GPU = ("cuda", "compute_capability", "multiprocessors")
_OF_ITS_DRIVER = ("driver", "cudnn", "power_limit_w", "clock_max_hz")
"""A GPU whose sensors cannot be read has none of these, or not all."""
_INVISIBLE = ("Cc", "Cf", "Co", "Cn", "Cs")
"""Categories of characters: control, format, private, unassigned, halves."""
_EMPTY = ("", "unknown", "n/a", "na", "none", "null", "-", "?")


def _names(under: RunUnderTest) -> Iterator[Fault]:
    known_metrics = {metric.name for metric in metrics()}
    known_tasks = {task.name for task in tasks()}
    for one in under.records:
        case = one.case
        found = under.tree.spec(case.variant)
        if isinstance(found, UnknownName):
            yield one.fault(f"{found} Add the variant to the tree first.")
            continue
        if case.backend not in under.tree.backends(case.variant):
            allowed = ", ".join(under.tree.backends(case.variant))
            yield one.fault(f"backend {case.backend!r} of {case.variant}: allowed {allowed}")
        if isinstance(case.stimulus, Images) and case.stimulus.backbone not in backbones():
            yield one.fault(f"backbone {case.stimulus.backbone!r}: not in the tree")
        if isinstance(case.stimulus, TaskRun) and case.stimulus.task not in known_tasks:
            allowed = ", ".join(sorted(known_tasks)) or "none"
            yield one.fault(f"task {case.stimulus.task!r}: allowed {allowed}")
        for measurement in one.measurements:
            if measurement.metric not in known_metrics:
                allowed = ", ".join(sorted(known_metrics)) or "none"
                yield one.fault(f"metric {measurement.metric!r}: allowed {allowed}")
    if under.run.plan not in (*plan_names(), REPRODUCTION):
        allowed = ", ".join((*plan_names(), REPRODUCTION))
        yield Fault("run.json", f"plan {under.run.plan!r}: allowed {allowed}")


def _options(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        if one.spec is not None:
            for fault in option_faults(one.spec, one.case.options):
                yield one.fault(fault)


def _revisions_ahead(under: RunUnderTest) -> Iterator[Fault]:
    if under.run.protocol.version > PROTOCOL_VERSION:
        yield Fault(
            "run.json",
            f"protocol version {under.run.protocol.version}, this tree knows up to "
            f"{PROTOCOL_VERSION}: update attnbench",
        )
    for one in under.records:
        newest = under.tree.revision(one.case.variant)
        if newest is not None and one.record.variant_revision > newest:
            yield one.fault(
                f"revision {one.record.variant_revision} of {one.case.variant}, the tree has "
                f"{newest}: the variant must be merged before its results"
            )
    for one, name, version in _trained_tasks(under):
        if version.revision > task(name).revision:
            yield one.fault(
                f"revision {version.revision} of task {name}, the tree has "
                f"{task(name).revision}: the task must be merged before its results"
            )


def _trained_tasks(
    under: RunUnderTest,
) -> Iterator[tuple[RecordUnderTest, str, TaskVersion]]:
    known = {task.name for task in tasks()}
    for one in under.records:
        stimulus, version = one.case.stimulus, one.record.task
        if isinstance(stimulus, TaskRun) and stimulus.task in known and version is not None:
            yield one, stimulus.task, version


def _stale(under: RunUnderTest) -> Iterator[Fault]:
    if under.run.protocol.version < PROTOCOL_VERSION:
        yield Fault(
            "run.json",
            f"protocol version {under.run.protocol.version}, now {PROTOCOL_VERSION}: stale",
        )
    for file in under.stored.files:
        newest = under.tree.revision(file.variant)
        found = {record.variant_revision for record in file.records}
        if newest is not None and found and max(found) < newest:
            yield Fault(f"{file.variant}.json", f"revision {max(found)}, now {newest}: stale")
    old: dict[tuple[str, str], None] = {}
    for one, name, version in _trained_tasks(under):
        now = task(name)
        if version.revision < now.revision:
            old[one.file, f"revision {version.revision} of task {name}, now {now.revision}"] = None
        elif version.recipe_sha256 not in (None, now.recipe_sha256):
            old[one.file, f"another recipe of task {name} than the tree's"] = None
    for file, what in old:
        yield Fault(file, f"{what}: stale")


def _mixed_revisions(under: RunUnderTest) -> Iterator[Fault]:
    for file in under.stored.files:
        found = sorted({record.variant_revision for record in file.records})
        if len(found) > 1:
            yield Fault(f"{file.variant}.json", f"revisions {found} in one run: allowed one")


def _source(under: RunUnderTest) -> Iterator[Fault]:
    for file in under.stored.files:
        newest = under.tree.revision(file.variant)
        same_revision = newest in {record.variant_revision for record in file.records}
        if same_revision and file.source_sha256 != _source_digest(file.variant):
            yield Fault(
                f"{file.variant}.json",
                "source_sha256 is not that of the variant's file in this tree, at the same "
                "revision: either the file changed without effect on its output, or other code ran",
            )


def _source_digest(variant: str) -> str:
    return hashlib.sha256(source_file(variant).read_bytes()).hexdigest()


def _commit(under: RunUnderTest) -> Iterator[Fault]:
    if under.run.commit is None:
        yield Fault("run.json", "commit is missing: the run cannot be repeated exactly")
    if under.run.dirty:
        yield Fault("run.json", "the code differed from the commit: commit first, then measure")


def _time(under: RunUnderTest) -> Iterator[Fault]:
    if under.run.created > under.now:
        yield Fault("run.json", f"created {under.run.created} is in the future: now {under.now}")


def _environment(under: RunUnderTest) -> Iterator[Fault]:
    environment = under.run.environment
    for field in fields(environment):
        value = getattr(environment, field.name)
        if isinstance(value, str) and value.strip().lower() in _EMPTY:
            yield Fault("run.json", f"environment.{field.name} is {value!r}: must say what it is")
    if environment.threads > environment.cpu_count:
        yield Fault(
            "run.json",
            f"environment.threads is {environment.threads}, allowed up to cpu_count "
            f"{environment.cpu_count}",
        )
    listed = environment.packages.get("torch")
    if listed is None or listed.split("+")[0] != environment.torch.split("+")[0]:
        yield Fault(
            "run.json",
            f"environment.torch is {environment.torch}, environment.packages says {listed}",
        )
    for name in (*_OF_A_GPU, *_OF_ITS_DRIVER):
        present = getattr(environment, name) is not None
        if present and environment.device == "cpu":
            yield Fault("run.json", f"environment.{name} is there for device cpu")
        if not present and environment.device == "cuda" and name in _OF_A_GPU:
            yield Fault("run.json", f"environment.{name} is missing for device cuda")
    if environment.device == "cpu" and environment.cpu != environment.device_name:
        yield Fault(
            "run.json",
            f"environment.cpu is {environment.cpu}, environment.device_name is "
            f"{environment.device_name}: on a CPU they are the same",
        )
    versions = {"suite_version": under.run.suite_version, **environment.packages}
    for name, version in versions.items():
        if not _VERSION.fullmatch(version):
            yield Fault("run.json", f"the version of {name} is {version!r}, must be like 2.13.0")


def _hardware_id(under: RunUnderTest) -> Iterator[Fault]:
    from bench.environment import hardware_id  # noqa: PLC0415 - imports torch

    environment = under.run.environment
    try:
        together = together_of(environment.settings)
    except ValueError as wrong:
        yield Fault("run.json", f"environment.settings: {wrong}")
        return
    expected = hardware_id(
        environment.device,
        environment.device_name,
        environment.cpu_count,
        environment.device_memory_bytes,
        together,
    )
    if environment.hardware_id != expected:
        yield Fault(
            "run.json",
            f"environment.hardware_id is {environment.hardware_id}, device name, CPUs, memory and "
            f"devices together give {expected}",
        )
    timed = tuple(r.case.id for r in under.records if not isinstance(r.case.stimulus, TaskRun))
    if together > 1 and timed:
        yield Fault("run.json", f"{together} devices train together, these cases use one", timed)


def _characters(under: RunUnderTest) -> Iterator[Fault]:
    for file, text in under.texts.items():
        odd = sorted(c for c in set(text) if unicodedata.category(c) in _INVISIBLE)
        if odd:
            shown = ", ".join(f"U+{ord(c):04X}" for c in odd)
            yield Fault(file, f"invisible or unassigned characters: {shown}; remove them")
        if not unicodedata.is_normalized("NFC", text):
            yield Fault(file, "text is not in Unicode normal form C; normalise it")


def _markup(under: RunUnderTest) -> Iterator[Fault]:
    for file, text in under.texts.items():
        if found := re.search(
            r"[<>]|&(?:#|[a-z]+;)|javascript:|\{\{|\{%"
            r"|\bon(?:error|load|focus|click|mouse\w*|key\w*)\s*=",
            text,
            re.IGNORECASE,
        ):
            yield Fault(
                file,
                f"contains {found[0]!r}, which is markup or a script: allowed is plain text; no "
                "version, setting or message needs it",
            )


def _private(under: RunUnderTest) -> Iterator[Fault]:
    environment = under.run.environment
    versions = " ".join(
        (*(str(getattr(environment, name)) for name in _VERSION_FIELDS),
         *environment.packages.values())
    )  # fmt: skip
    addresses = set(re.findall(_ADDRESS, versions))  # versions of four parts look like addresses
    for file, text in under.texts.items():
        found = {what: re.search(pattern, text) for what, pattern in _PRIVATE.items()}
        told = {what: match[0] for what, match in found.items() if match}
        others = (match for match in re.findall(_ADDRESS, text) if match not in addresses)
        if (address := next(others, None)) is not None:
            told["an IP address"] = address
        for what, match in told.items():
            yield Fault(file, f"contains {what}: {match[:12]}...; results are public")


RULES = (
    RunRule(id="R201", severity="error", help="A name is not in the tree.", find=_names),
    RunRule(id="R202", severity="error", help="Not options of the variant.", find=_options),
    RunRule(id="R203", severity="error", help="Newer than the tree.", find=_revisions_ahead),
    RunRule(id="R204", severity="flag", help="Older than the tree.", find=_stale),
    RunRule(id="R205", severity="error", help="Two revisions at once.", find=_mixed_revisions),
    RunRule(id="R206", severity="flag", help="The variant's file is another.", find=_source),
    RunRule(id="R207", severity="flag", help="Not repeatable to the letter.", find=_commit),
    RunRule(id="R208", severity="error", help="Measured in the future.", find=_time),
    RunRule(id="R209", severity="error", help="Incomplete environment.", find=_environment),
    RunRule(id="R210", severity="error", help="Another machine's id.", find=_hardware_id),
    RunRule(id="R211", severity="error", help="Characters nobody can see.", find=_characters),
    RunRule(id="R212", severity="error", help="Private data.", find=_private),
    RunRule(id="R214", severity="error", help="Markup in a text.", find=_markup),
)
