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
from leaderboard.format import MISSING, count_of, measure, whole
from leaderboard.pieces import Link
from leaderboard.provenance import flags
from leaderboard.results import OUTCOME_WORDS, Result, View
from leaderboard.tables import Cell, Head, Row, Table
from leaderboard.trainings import trained


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
                    f"Latency of one call; each cell leads to its samples and provenance. {busy}",
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
        blocks += _accuracies(view, here)
        blocks += _searches(here)
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
            Head(title="What ran", secondary=True),
            *(Head(title=_short(size), number=True, help=size.title) for size in sizes),
        ),
        rows=tuple(rows),
        empty="No results yet.",
        sticky=True,
    )


def _short(size: Size) -> str:
    return f"{size.resolution_px} px" if size.resolution_px else whole(size.tokens)


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


def _searches(here: list[Result]) -> Iterator[Block]:
    found = [r for r in here if r.stimulus == "frontier" and "largest_tokens" in r.numbers]
    for result in sorted(found, key=lambda r: (r.backend, r.passes != "forward", r.case_id)):
        most = whole(round(result.numbers["largest_tokens"].value))
        budget = measure("byte", result.memory_budget_bytes or 0)
        passes = PASSES_WORDS.get(result.passes or "", "")
        words = f"Most tokens in {budget}, {passes}, {result.backend}: "
        yield Paragraph((words, Link(most, result_address(result)), "."))


def _accuracies(view: View, here: list[Result]) -> Iterator[Block]:
    for task in sorted(view.tasks):
        for one in trained(here, task):
            interval = ""
            if one.low is not None and one.high is not None:
                interval = f" ({measure('fraction', one.low)} to {measure('fraction', one.high)})"
            yield Paragraph(
                (
                    (
                        f"Accuracy on {view.tasks[task].title}: {measure('fraction', one.mean)}"
                        f"{interval}, mean of {count_of(len(one.seeds), 'seed')}. "
                    ),
                    Link("Compare", task_address(task)),
                )
            )
