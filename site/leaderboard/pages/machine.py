"""One document a machine: environment, ceilings, its runs and its failures."""

from collections import Counter
from collections.abc import Iterator

from bench.model import Ceiling
from bench.table import MachineEntry, RunEntry
from leaderboard.addresses import of_context
from leaderboard.addresses import run as run_address
from leaderboard.blocks import (
    Block,
    Bullets,
    Disclosure,
    Document,
    Facts,
    Notice,
    Paragraph,
    Section,
)
from leaderboard.contexts import LEVEL_WORDS, PASSES_WORDS, POLICY_WORDS, ordered_contexts, slug
from leaderboard.format import (
    MISSING,
    Quantity,
    count_of,
    listed,
    measure,
    minute,
    percent,
    whole,
)
from leaderboard.page import Page
from leaderboard.pieces import Code, Inline, Link
from leaderboard.results import OUTCOME_WORDS, Result, View
from leaderboard.tables import Cell, Head, Row, Table

_UNITS: dict[str, Quantity] = {"flop/s": "flop/s", "byte/s": "byte/s", "s": "s", "op/s": "op/s"}


def _documents(view: View) -> Iterator[Document]:
    yield _index(view)
    for machine in view.machines.values():
        yield Document(
            path=f"machines/{slug(machine.hardware_id)}.html",
            title=view.machine_title(machine.hardware_id),
            summary=f"Environment, ceilings, noise and runs of {machine.hardware_id}.",
            context="Machine",
            blocks=tuple(_blocks(view, machine)),
        )


def _index(view: View) -> Document:
    rows: list[Row] = []
    for hardware_id, machine in view.machines.items():
        mine = [r for r in view.results if r.hardware_id == hardware_id]
        measured = sum(r.ok for r in mine)
        environment = machine.environment
        rows.append(
            Row(
                (
                    Cell((Link(view.machine_title(hardware_id),
                               f"machines/{slug(hardware_id)}.html"),), hardware_id),
                    Cell((measure("byte", environment.device_memory_bytes),),
                         environment.device_memory_bytes),
                    Cell((environment.torch,)),
                    Cell((whole(len(machine.run_ids)),), len(machine.run_ids)),
                    Cell((whole(measured),), measured),
                    Cell((whole(len(mine) - measured),), len(mine) - measured),
                )
            )
        )  # fmt: skip
    table = Table(
        id="machines-table",
        caption="Machines",
        heads=(
            Head(title="Machine"),
            Head(title="Memory", number=True),
            Head(title="torch", secondary=True),
            Head(title="Runs", number=True, secondary=True),
            Head(title="Cells measured", number=True),
            Head(title="Failed", number=True, secondary=True),
        ),
        rows=tuple(rows),
        empty="No machine has been measured yet.",
        show_caption=False,
    )
    return Document(
        path="machines/index.html",
        title="Machines",
        summary="Every machine with results.",
        blocks=(
            Paragraph(("Results of different machines never stand in one ranking.",), "lead"),
            table,
        ),
    )


def _blocks(view: View, machine: MachineEntry) -> Iterator[Block]:
    runs = [view.runs[run_id] for run_id in machine.run_ids]
    newest = runs[0]
    id_ = slug(machine.hardware_id)
    if newest.run.conditions.busy:
        yield Notice(
            ("Other work ran on this machine during its newest run; its rows are marked.",),
            "warning",
        )
    yield Paragraph((Link("Every ranking of this machine", f"leaderboard/{id_}.html"),))
    yield Section("environment", "Environment", (
        Facts(tuple(_environment(machine))),
        Disclosure("Packages and settings", (
            Facts(tuple((name, (version,)) for name, version in
                        sorted(machine.environment.packages.items()))),
            Facts(tuple((name, (Code(str(value)),)) for name, value in
                        sorted(machine.environment.settings.items()))),
        )),
    ))  # fmt: skip
    yield Section("ceilings", "Ceilings, measured in the newest run", (
        Paragraph(("The best of all repetitions; efficiency is relative to these.",), "small"),
        _ceilings(newest),
    ))  # fmt: skip
    yield Section("runs", "Runs", (_runs(runs),))
    mine = [r for r in view.results if r.hardware_id == machine.hardware_id]
    yield Section("failures", "Failures", (
        Paragraph((_failure_words(mine),)),
        Bullets(tuple(_maps(view, machine.hardware_id))),
    ))  # fmt: skip


def _runs(runs: list[RunEntry]) -> Table:
    return Table(
        id="runs-table",
        caption="Runs of this machine, newest first",
        heads=(
            Head(title="Run", unit="UTC", shape="when"),
            Head(title="Plan"),
            Head(title="torch", secondary=True),
            Head(title="Measured", number=True),
            Head(title="Failed", number=True, secondary=True),
            Head(title="Noise floor", number=True, secondary=True,
                 help="Nine in ten repetitions of the same case differ by less."),
            Head(title="State"),
        ),
        rows=tuple(
            Row(
                (
                    Cell((Link(minute(e.run.created), run_address(e.run.run_id)),), e.run.created),
                    Cell((e.run.plan,)),
                    Cell((e.run.environment.torch,)),
                    Cell((whole(e.outcomes.get("ok", 0)),), e.outcomes.get("ok", 0)),
                    Cell((whole(_failed(e)),), _failed(e)),
                    Cell((MISSING if e.noise_floor is None else percent(e.noise_floor),),
                         e.noise_floor),
                    Cell((", ".join(_states(e)) or "quiet",)),
                )
            )
            for e in runs
        ),
        empty="No run.",
        show_caption=False,
    )  # fmt: skip


def _failed(entry: RunEntry) -> int:
    return sum(number for kind, number in entry.outcomes.items() if kind != "ok")


def _states(entry: RunEntry) -> Iterator[str]:
    if entry.run.conditions.busy:
        yield "busy"
    if entry.stale:
        yield "stale"
    if entry.run.dirty:
        yield "uncommitted changes"


def _maps(view: View, hardware_id: str) -> Iterator[Inline]:
    for context, _sizes in ordered_contexts(view):
        if context.hardware_id == hardware_id:
            words = (
                f"{PASSES_WORDS[context.passes]}, {LEVEL_WORDS[context.level]}, "
                f"{POLICY_WORDS[context.batch_policy]}, {context.dtype}, {context.width}"
            )
            yield (Link(f"Failure map: {words}", of_context("failures", context)),)


def _environment(machine: MachineEntry) -> Iterator[tuple[str, Inline]]:
    e = machine.environment
    yield "Identifier", (Code(e.hardware_id),)
    yield "Device", (e.device_name,)
    yield "Memory", (measure("byte", e.device_memory_bytes),)
    yield "CPU", (e.cpu,)
    yield "Threads", (f"{e.threads} of {count_of(e.cpu_count, 'CPU')}",)
    yield "System", (e.os,)
    yield "Python", (e.python,)
    yield "torch", (e.torch,)
    optional: tuple[tuple[str, str | None], ...] = (
        ("CUDA", e.cuda),
        ("Driver", e.driver),
        ("cuDNN", e.cudnn),
        ("Compute capability", e.compute_capability),
        ("Multiprocessors", None if e.multiprocessors is None else whole(e.multiprocessors)),
        ("Power limit", None if e.power_limit_w is None else measure("w", e.power_limit_w)),
        ("Highest clock", None if e.clock_max_hz is None else measure("hz", e.clock_max_hz)),
    )
    for name, value in optional:
        if value is not None:
            yield name, (value,)


def _ceilings(entry: RunEntry) -> Table:
    return Table(
        id="ceilings-table",
        caption="Ceilings",
        heads=(
            Head(title="Ceiling"),
            Head(title="Best", number=True),
            Head(title="Spread", number=True, secondary=True,
                 help="Largest minus smallest repetition, over the best."),
            Head(title="What was run", secondary=True),
        ),
        rows=tuple(
            Row(
                (
                    Cell((c.name.replace("_", " "),)),
                    Cell((measure(_UNITS[c.unit], entry.ceilings[c.name]),)),
                    Cell((_spread(c, entry.ceilings[c.name]),)),
                    Cell((c.detail,)),
                )
            )
            for c in entry.run.ceilings
        ),
        empty="No ceiling was measured.",
        show_caption=False,
        sortable=False,
    )  # fmt: skip


def _spread(ceiling: Ceiling, best: float) -> str:
    if len(ceiling.samples) < 2:
        return MISSING
    return percent((max(ceiling.samples) - min(ceiling.samples)) / best)


def _failure_words(results: list[Result]) -> str:
    counts = Counter(OUTCOME_WORDS.get(r.outcome, r.outcome) for r in results if not r.ok)
    if not counts:
        return f"None of {count_of(len(results), 'cell')} failed."
    parts = listed(f"{number} {word}" for word, number in sorted(counts.items()))
    return f"{sum(counts.values())} of {count_of(len(results), 'cell')}: {parts}."


PAGE = Page(
    title="Machines",
    path="machines/index.html",
    order=10,
    documents=_documents,
    about="Environment, ceilings, noise and runs of each.",
)
