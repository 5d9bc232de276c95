"""One document a machine: environment, ceilings, how quiet it was, its runs and its failures."""

from collections import Counter
from collections.abc import Iterator

from bench.model import Ceiling
from bench.table import MachineEntry, RunEntry
from leaderboard.blocks import (
    Block,
    Cell,
    Code,
    Disclosure,
    Document,
    Facts,
    Head,
    Inline,
    Link,
    Notice,
    Paragraph,
    Row,
    Section,
    Subsection,
    Table,
    VariantName,
)
from leaderboard.contexts import context_of, size_of, slug
from leaderboard.format import (
    MISSING,
    Quantity,
    count_of,
    day,
    listed,
    measure,
    percent,
    whole,
)
from leaderboard.page import Page
from leaderboard.provenance import case_slug, detail
from leaderboard.results import OUTCOME_WORDS, Result, View

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
    if newest.run.conditions.busy:
        yield Notice(
            ("Other work ran on this machine during its newest run; its rows are marked.",),
            "warning",
        )
    yield Paragraph((Link("Its leaderboard", f"leaderboard/{slug(machine.hardware_id)}.html"),))
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
    yield Section("runs", "Runs", tuple(_run(entry) for entry in runs))
    mine = [r for r in view.results if r.hardware_id == machine.hardware_id]
    yield Section("failures", "Failures", (
        Paragraph((_failure_words(mine),)),
        _failures(view, mine),
    ))  # fmt: skip


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


def _run(entry: RunEntry) -> Subsection:
    run, conditions = entry.run, entry.run.conditions
    commit: Inline = ("none: not a git checkout",)
    if run.commit:
        commit = (Code(run.commit[:12]), " with uncommitted changes" if run.dirty else "")
    noise: Inline = ("not known: too few pairs",)
    if entry.noise_floor is not None:
        sequential = entry.noise_floor_sequential
        words = f"{percent(entry.noise_floor)} interleaved"
        if sequential is not None:
            words += f"; one side after the other it would be {percent(sequential)}"
        noise = (words,)
    drift: Inline = ("not known",)
    if entry.drift is not None:
        sign = "\N{MINUS SIGN}" if entry.drift.change < 0 else "+"
        drift = (
            (
                f"{sign}{percent(abs(entry.drift.change))} from start to end, spread "
                f"{percent(entry.drift.spread)} over {count_of(entry.drift.visits, 'visit')}"
            ),
        )
    load = conditions.foreign_load
    pairs: list[tuple[str, Inline]] = [
        ("Run", (Code(run.run_id),)),
        ("By", (run.submitted_by,)),
        ("Plan", (run.plan, *((f", only {run.only}",) if run.only else ()))),
        ("Commit", commit),
        ("Suite", ((f"{run.suite_version}, protocol {run.protocol.version}"
                   f"{', stale' if entry.stale else ''}"),)),
        ("Wall time", (measure("s", conditions.wall_s),)),
        ("Duty", (f"{percent(entry.duty)} inside measured calls",)),
        ("Noise floor", noise),
        ("Drift", drift),
        ("Other load", (f"{max(load):.2f} CPUs at most" if load else "not sampled",
                        ", busy" if conditions.busy else ", quiet")),
        ("Cells", (_cells(entry),)),
        ("Files", (Link("run.json", f"data/results/{entry.folder}/run.json", download=True),
                   f" and {count_of(len(run.files), 'file')} on the ", Link("data page", ""
                                                                                         "data.html"))),
    ]  # fmt: skip
    return Subsection(
        f"run-{slug(run.run_id)}", f"{day(run.created)}, plan {run.plan}", (Facts(tuple(pairs)),)
    )


def _cells(entry: RunEntry) -> str:
    words = [f"{whole(entry.outcomes.get('ok', 0))} measured"]
    words += [
        f"{whole(number)} {OUTCOME_WORDS[kind]}"
        for kind, number in entry.outcomes.items()
        if kind in OUTCOME_WORDS and number
    ]
    return ", ".join(words)


def _failure_words(results: list[Result]) -> str:
    counts = Counter(OUTCOME_WORDS.get(r.outcome, r.outcome) for r in results if not r.ok)
    if not counts:
        return f"None of {count_of(len(results), 'cell')} failed."
    parts = listed(f"{number} {word}" for word, number in sorted(counts.items()))
    return f"{sum(counts.values())} of {count_of(len(results), 'cell')}: {parts}."


def _failures(view: View, results: list[Result]) -> Table:
    failed = [r for r in results if not r.ok]
    return Table(
        id="failures-table",
        caption="Failures",
        heads=(
            Head(title="Variant"),
            Head(title="Case"),
            Head(title="Outcome"),
            Head(title="Reason", secondary=True),
            Head(title="Details", sortable=False),
        ),
        rows=tuple(
            Row(
                (
                    Cell((VariantName(r.variant, view.title(r.variant), r.detail),), r.variant),
                    Cell((_case_words(r),), r.tokens),
                    Cell((OUTCOME_WORDS.get(r.outcome, r.outcome),), tone="failure"),
                    Cell((r.reason or "",)),
                    Cell((detail(view, r, id_=f"failure-{case_slug(r)}"),)),
                ),
                "failed",
            )
            for r in failed
        ),
        empty="No case failed.",
        show_caption=False,
    )


def _case_words(result: Result) -> str:
    context = context_of(result)
    if context is None:
        return result.task or f"largest size, {result.passes}"
    return f"{size_of(result).title}, {context.passes.replace('_', ' and ')}, {context.level}"


PAGE = Page(title="Machines", path="machines/index.html", order=7, documents=_documents)
