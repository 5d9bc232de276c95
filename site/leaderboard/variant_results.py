"""Everything that was measured of one variant, machine by machine."""

from collections.abc import Iterator

from leaderboard import badges
from leaderboard.addresses import result_address
from leaderboard.addresses import task as task_address
from leaderboard.blocks import Block, Paragraph, Subsection
from leaderboard.contexts import (
    PASSES_WORDS,
    POLICY_WORDS,
    Context,
    Size,
    context_of,
    size_of,
    slug,
)
from leaderboard.format import MISSING, measure, per_cent, percent, whole
from leaderboard.pieces import Link
from leaderboard.provenance import flags
from leaderboard.results import OUTCOME_WORDS, Result, View
from leaderboard.tables import Cell, Head, Row, Table
from leaderboard.trainings import trained

_LATENCY = "Latency of one call; each cell leads to its samples and provenance. "


def measured(view: View, name: str, badged: frozenset[str]) -> Iterator[Block]:
    """Yield a part for each machine: times by size, searches, accuracies.

    Args:
        view: the results.
        name: the variant.
        badged: paths of the badges that there are.
    """
    mine = [r for r in view.results if r.variant == name]
    if not mine:
        yield Paragraph(("No results yet.",))
        return
    for hardware_id in view.machines:
        here = [r for r in mine if r.hardware_id == hardware_id]
        if not here:
            continue
        id_ = slug(hardware_id)
        busy = "Other work kept this machine busy. " if any(r.busy for r in here) else ""
        badge = badges.badge_path(name, hardware_id)
        blocks: list[Block] = [
            Paragraph(
                (
                    *((_LATENCY,) if any("latency" in r.numbers for r in here) else ()),
                    busy,
                    Link("About this machine", f"machines/{id_}.html"),
                    *((" \N{MIDDLE DOT} ", Link("Badge", badge)) if badge in badged else ()),
                ),
                "small",
            )
        ]
        for kind, title in (("images", "Images"), ("sequences", "Sequences and other grids")):
            timed = [
                r for r in here if r.stimulus == "workload" and r.is_image == (kind == "images")
            ]
            if timed:
                blocks.append(_timed(timed, f"{kind}-{id_}", title))
        networks = [r for r in here if r.stimulus == "images"]
        if networks:
            blocks.append(_networks(view, networks, f"networks-{id_}"))
        blocks += _accuracies(view, here, f"accuracy-{id_}")
        blocks += _searches(here, f"searches-{id_}")
        yield Subsection(f"on-{id_}", view.machine_title(hardware_id), tuple(blocks))


def _timed(results: list[Result], id_: str, title: str) -> Table:
    """One row an execution and context, one column a size."""
    sizes = sorted({size_of(r) for r in results}, key=lambda s: s.order)
    lines: dict[tuple[Context, str, str], dict[Size, Result]] = {}
    for result in results:
        context = context_of(result)
        if context is not None:
            key = (context, result.backend, result.options)
            lines.setdefault(key, {})[size_of(result)] = result
    rows: list[Row] = []
    for context, backend, options in sorted(lines, key=lambda key: (key[0].order, *key[1:])):
        at = lines[context, backend, options]
        policy = POLICY_WORDS[context.batch_policy]
        passes = PASSES_WORDS[context.passes]
        mask = ", causal" if context.causal else ""
        words = f"{passes}, {context.level}, {policy}, {context.dtype}{mask}"
        rows.append(
            Row(
                (
                    Cell((backend, *((f" {options}",) if options else ())), f"{backend} {options}"),
                    Cell((words,)),
                    *(_latency(at.get(size)) for size in sizes),
                )
            )
        )
    return Table(
        id=id_,
        caption=title,
        heads=(
            Head(title="Execution"),
            Head(title="What ran", shape="text"),
            *(Head(title=_short(size), number=True, help=size.title) for size in sizes),
        ),
        rows=tuple(rows),
        empty="No results yet.",
        sticky=True,
    )


def _networks(view: View, results: list[Result], id_: str) -> Table:
    """One row a network, execution and batch, one column a side of the image."""
    sides = sorted({r.resolution_px for r in results if r.resolution_px is not None})
    lines: dict[tuple[str, str, str, str, str], dict[int, Result]] = {}
    for r in results:
        images = POLICY_WORDS.get(r.batch_policy or "", "fixed number of images")
        words = f"{PASSES_WORDS.get(r.passes or '', '')}, {images}, {r.dtype}"
        name = view.network_title(r.backbone or "")
        key = (name, r.backend, r.options, words.replace("1 sequence", "1 image"), r.backbone or "")
        lines.setdefault(key, {})[r.resolution_px or 0] = r
    return Table(
        id=id_,
        caption="Whole networks with this mechanism",
        heads=(
            Head(title="Network"),
            Head(title="Execution"),
            Head(title="What ran", shape="text"),
            *(Head(title=f"{side} px", number=True) for side in sides),
        ),
        rows=tuple(
            Row(
                (
                    Cell((name,)),
                    Cell((backend, *((f" {options}",) if options else ()))),
                    Cell((words,)),
                    *(_latency(at.get(side)) for side in sides),
                )
            )
            for (name, backend, options, words, _), at in sorted(lines.items())
        ),
        empty="No results yet.",
        sticky=True,
    )


def _short(size: Size) -> str:
    return f"{size.resolution_px} px" if size.resolution_px else f"{whole(size.tokens)} tokens"


def _latency(result: Result | None) -> Cell:
    if result is None:
        return Cell((MISSING,), tone="muted")
    if not result.ok:
        word = OUTCOME_WORDS.get(result.outcome, result.outcome)
        return Cell((Link(word, result_address(result)),), tone="failure")
    number = result.numbers.get("latency")
    if number is None:
        return Cell((Link("not timed", result_address(result)),), tone="muted")
    link = Link(measure("s", number.value), result_address(result))
    return Cell((link, *flags(result, busy=False)), number.value)


def _searches(here: list[Result], id_: str) -> Iterator[Block]:
    found = [r for r in here if r.stimulus == "frontier" and "largest_tokens" in r.numbers]
    if not found:
        return
    ordered = sorted(
        found,
        key=lambda r: (
            r.backend, r.options, r.passes != "forward", r.memory_budget_bytes or 0, r.case_id
        ),
    )  # fmt: skip
    rows: list[Row] = []
    for r in ordered:
        most, budget = r.numbers["largest_tokens"].value, r.memory_budget_bytes or 0
        rows.append(
            Row(
                (
                    Cell((r.backend, *((f" {r.options}",) if r.options else ()))),
                    Cell((PASSES_WORDS.get(r.passes or "", ""),)),
                    Cell((measure("byte", budget),), budget),
                    Cell((Link(whole(round(most)), result_address(r)),), most),
                )
            )
        )
    yield Table(
        id=id_,
        caption="The most tokens in a row within a memory, found by searching",
        heads=(
            Head(title="Execution"),
            Head(title="Passes"),
            Head(title="Memory", number=True),
            Head(title="Most tokens", number=True),
        ),
        rows=tuple(rows),
        empty="No results yet.",
        sortable=False,
    )


def _accuracies(view: View, here: list[Result], id_: str) -> Iterator[Block]:
    done = [(task, one) for task in sorted(view.tasks) for one in trained(here, task)]
    if not done:
        return
    yield Table(
        id=id_,
        caption="Accuracy, mean over seeds",
        heads=(
            Head(title="Task"),
            Head(title="Accuracy", unit="%", number=True),
            Head(title="95 % interval", unit="%", number=True, help="Student's t over seeds."),
            Head(title="Seeds", number=True, secondary=True),
            Head(title="Chance", number=True, secondary=True),
        ),
        rows=tuple(
            Row(
                (
                    Cell((Link(view.tasks[task].title, task_address(task)),)),
                    Cell((per_cent(one.mean),), one.mean),
                    Cell((MISSING,), tone="muted")
                    if one.low is None or one.high is None
                    else Cell((f"{per_cent(one.low)} to {per_cent(one.high)}",), one.low, "muted"),
                    Cell((whole(len(one.seeds)),), len(one.seeds)),
                    Cell((percent(view.tasks[task].chance),), view.tasks[task].chance),
                )
            )
            for task, one in done
        ),
        empty="No training has finished.",
        sortable=False,
    )
