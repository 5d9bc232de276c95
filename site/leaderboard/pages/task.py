"""One document a task: data, recipe, chance, every variant with all its seeds."""

from collections.abc import Iterator, Sequence

from bench.model import Scalar
from bench.table import TaskEntry
from leaderboard.addresses import result_address
from leaderboard.addresses import task as task_address
from leaderboard.blocks import (
    Block,
    Cell,
    Code,
    CodeBlock,
    Disclosure,
    Document,
    Facts,
    Head,
    Inline,
    Link,
    Matrix,
    Paragraph,
    Row,
    Section,
    Table,
    VariantName,
    prose,
)
from leaderboard.contexts import slug
from leaderboard.downloads import links, task_base
from leaderboard.format import (
    MISSING,
    count_of,
    listed,
    percent,
    scale_for,
    whole,
)
from leaderboard.learning_curves import learning_curves
from leaderboard.page import Page
from leaderboard.results import OUTCOME_WORDS, Result, View
from leaderboard.standings import EXACTNESS_BADGES
from leaderboard.trainings import (
    Trained,
    accuracy_ranks,
    of_task,
    separation,
    trained,
    with_results,
)

_MOST_NAMED = 6
_DIGEST = (
    "The digest is of the tensors of all training and test examples, taken in every training; a "
    "run whose rows differ in it is refused."
)
_SAME = (
    "The same for every variant, nothing is tuned. A change of any number here makes older rows "
    "stale. Digest of the recipe: "
)


def _documents(view: View) -> Iterator[Document]:
    for entry in view.tasks.values():
        yield Document(
            path=task_address(entry.name),
            title=entry.title,
            summary=f"{entry.title}: data, recipe, and the accuracy of every variant.",
            context="Task",
            blocks=tuple(_blocks(view, entry)),
        )


def _blocks(view: View, entry: TaskEntry) -> Iterator[Block]:
    yield Paragraph(prose(entry.help), "lead")
    yield Facts(tuple(_facts(entry)))
    tried = [hardware_id for task, hardware_id in with_results(view) if task == entry.name]
    for hardware_id in tried:
        mine = of_task(view, entry.name, hardware_id)
        done = trained(mine, entry.name)
        failed = [r for r in mine if not r.ok]
        blocks: list[Block] = []
        if done:
            blocks.append(Paragraph((_finding(view, entry, done),), "finding"))
        blocks.append(_table(view, done, failed, f"seeds-{slug(hardware_id)}"))
        curves = learning_curves(view, entry, hardware_id, done)
        if curves is not None:
            blocks.append(curves)
        yield Section(f"on-{slug(hardware_id)}", view.machine_title(hardware_id), tuple(blocks))
    if not tried:
        yield Paragraph(("No variant has been trained for this task yet.",))
    yield Section("data", "Data", tuple(_data(view, entry)))
    yield Section("recipe", "Recipe", tuple(_recipe(entry)))
    if not tried:
        return
    yield Paragraph((Link("Accuracy against cost", "tradeoff.html"), " \N{MIDDLE DOT} ",
                     Link("All tasks", "accuracy.html")))  # fmt: skip
    yield links(("All rows of this task", task_base(entry.name)))


def _facts(entry: TaskEntry) -> Iterator[tuple[str, Inline]]:
    yield "Identifier", (Code(entry.name),)
    yield "Chance", (f"{percent(entry.chance)} correct by guessing",)
    if entry.test_items is not None:
        step = percent(1 / entry.test_items)
        yield "Test items", (f"{whole(entry.test_items)}; one of them is {step}",)
    yield "Revision", (f"{entry.revision}; older trainings are stale",)
    if entry.tokens is not None:
        yield "Tokens", (f"{whole(entry.tokens)} in every attention layer",)
    if entry.source is not None:
        yield "Definition", (Code(entry.source),)


def _data(view: View, entry: TaskEntry) -> Iterator[Block]:
    """Where the examples come from, how many there are, and the digest of what was trained on."""
    facts: list[tuple[str, Inline]] = []
    if entry.test_items is not None:
        facts.append(("Test items", (whole(entry.test_items),)))
    train = entry.recipe.get("examples.train")
    if isinstance(train, int):
        facts.append(("Training examples", (whole(train),)))
    if entry.data_source is not None:
        facts.append(("Read by", (Code(entry.data_source),)))
    for digest, machines in sorted(_digests(view, entry.name).items()):
        facts.append(("sha256", (Code(digest), f" on {listed(machines)}")))
    yield Facts(tuple(facts))
    yield Paragraph((_DIGEST,), "small")
    if entry.data:
        yield Disclosure("Where they come from, in the words of their file",
                         (CodeBlock(entry.data),))  # fmt: skip


def _digests(view: View, task: str) -> dict[str, list[str]]:
    """Digest of the data -> titles of the machines that trained on them."""
    rows = view.table.rows
    mine = rows[(rows["task"] == task) & rows["data_sha256"].notna() & ~rows["stale"]]
    found: dict[str, list[str]] = {}
    pairs = mine[["data_sha256", "hardware_id"]].drop_duplicates()
    for digest, hardware_id in sorted(pairs.itertuples(index=False, name=None)):
        found.setdefault(str(digest), []).append(view.machine_title(str(hardware_id)))
    return found


def _recipe(entry: TaskEntry) -> Iterator[Block]:
    yield Paragraph(
        (
            _SAME,
            Code(entry.recipe_sha256),
            ".",
        )
    )
    yield Matrix(
        f"Every number of the recipe of {entry.title}",
        ("Number", "Value"),
        tuple((name, _value(value)) for name, value in entry.recipe.items()),
    )
    if entry.description and entry.data_source != entry.source:
        yield Disclosure("In the words of its file", (CodeBlock(entry.description),))


def _value(value: Scalar | None) -> str:
    if value is None:
        return MISSING
    return whole(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _finding(view: View, entry: TaskEntry, done: Sequence[Trained]) -> str:
    found = accuracy_ranks(done)
    best = [view.title(t.variant) for t, rank in zip(done, found, strict=True) if rank == 1]
    if len(done) == 1:
        return f"Only {best[0]} was trained: {percent(done[0].mean)}."
    parted = separation(done)
    if len(best) == len(done):
        return (
            f"This task cannot rank the {count_of(len(done), 'variant')}: the intervals over the "
            f"seeds of all of them overlap with that of the best. Means lie within "
            f"{100 * parted.spread:.1f} points."
        )
    shown = best
    if len(best) > _MOST_NAMED:
        shown = [*best[: _MOST_NAMED - 1], f"{len(best) - _MOST_NAMED + 1} more"]
    verb = "is best" if len(best) == 1 else "are best and cannot be told apart"
    last = done[-1]
    above = percent(max(0.0, last.mean - entry.chance))
    return (
        f"{listed(shown)} {verb}, {percent(done[0].mean)} for the first; "
        f"{view.title(last.variant)} comes last with {percent(last.mean)}, {above} above chance. "
        f"Told apart: {whole(parted.told_apart)} of {count_of(parted.pairs, 'pair')} of variants."
    )


def _table(view: View, done: Sequence[Trained], failed: Sequence[Result], id_: str) -> Table:
    times = [r.numbers["training_time"].value for t in done for r in t.seeds
             if "training_time" in r.numbers]  # fmt: skip
    clock = scale_for("s", times)
    found = accuracy_ranks(done)
    nothing = Cell((MISSING,), tone="muted")
    rows: list[Row] = []
    for one, rank in zip(done, found, strict=True):
        spent = [
            r.numbers["training_time"].value for r in one.seeds if "training_time" in r.numbers
        ]
        interval = MISSING
        if one.low is not None and one.high is not None:
            interval = f"{100 * one.low:.1f} to {100 * one.high:.1f}"
        tied = found.count(rank) > 1
        all_tied = len(found) > 1 and found.count(rank) == len(found)
        place = "tie" if all_tied else f"={rank}" if tied else str(rank)
        rows.append(
            Row(
                (
                    Cell((place,), rank),
                    Cell(
                        (
                            VariantName(one.variant, view.title(one.variant)),
                            " ",
                            EXACTNESS_BADGES[view.exactness(one.variant)],
                        ),
                        one.variant,
                    ),
                    Cell((f"{100 * one.mean:.1f}",), one.mean),
                    Cell((interval,), one.low, "muted"),
                    Cell(tuple(_seeds(one))),
                    Cell((clock.text(sum(spent) / len(spent)),), sum(spent) / len(spent))
                    if spent
                    else nothing,
                )
            )
        )
    for result in failed:
        word = OUTCOME_WORDS.get(result.outcome, result.outcome)
        name = VariantName(result.variant, view.title(result.variant), f"seed {result.seed}")
        cell = Cell((Link(word, result_address(result)),), tone="failure")
        rows.append(
            Row((nothing, Cell((name,), result.variant), cell, nothing, nothing, nothing), "failed")
        )
    return Table(
        id=id_,
        caption="Accuracy, mean over seeds",
        heads=(
            Head(title="Rank", number=True, shape="rank",
                 help="Variants whose intervals overlap share a rank."),
            Head(title="Variant", shape="name"),
            Head(title="Accuracy", unit="%", number=True, help="Mean over seeds."),
            Head(title="95 % interval", unit="%", number=True, secondary=True, sortable=False,
                 help="Student's t over seeds."),
            Head(title="Every seed", unit="%", secondary=True, sortable=False),
            Head(title="Training", unit=clock.unit, number=True, secondary=True,
                 help="Mean time of one training on this machine."),
        ),
        rows=tuple(rows),
        empty="No training has finished.",
        name_column=1,
        show_caption=False,
    )  # fmt: skip


def _seeds(one: Trained) -> Iterator[str | Link]:
    for number, result in enumerate(sorted(one.seeds, key=lambda r: (r.seed or 0, r.case_id))):
        if number:
            yield ", "
        yield Link(f"{100 * result.numbers['accuracy'].value:.1f}", result_address(result))


PAGE = Page(title="Tasks", path="accuracy.html", order=None, documents=_documents)
