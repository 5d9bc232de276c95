"""Documents that show one context over sizes of one kind: images, or sequences."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from leaderboard.addresses import along, of_context
from leaderboard.blocks import Block, Document, Paragraph
from leaderboard.choices import CONTEXT_FACETS, Choice, Choices, context_values
from leaderboard.contexts import (
    LEVEL_WORDS,
    PASSES_WORDS,
    POLICY_WORDS,
    Context,
    Size,
    ordered_contexts,
)
from leaderboard.curves import Family, families
from leaderboard.results import Result, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Along:
    """One context, one kind of sizes."""

    context: Context
    family: Family
    choice: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """One context, all of its sizes."""

    context: Context
    sizes: Mapping[Size, tuple[Result, ...]]
    choice: Choice


def conditions(context: Context, more: str = "") -> Paragraph:
    """Return what holds for everything in a document."""
    words = (
        f"{context.dtype}, {LEVEL_WORDS[context.level]}, {POLICY_WORDS[context.batch_policy]}, "
        f"{context.width}."
    )
    return Paragraph((f"{words} {more}" if more else words,), "small")


def along_documents(
    view: View, kind: str, title: str, lead: str, blocks: Callable[[Along], Iterator[Block]]
) -> Iterator[Document]:
    """Yield a document for each context and kind of sizes, and `<kind>.html` with the first.

    Args:
        view: the results.
        kind: name of the page, and the folder of its documents.
        title: heading.
        lead: what the page shows.
        blocks: what one document holds below its choices.
    """
    found = tuple(
        Along(
            context=context,
            family=family,
            choice=Choice(
                path=along(kind, context, family.key),
                values=(*context_values(view, context), (family.key, family.title)),
            ),
        )
        for context, sizes in ordered_contexts(view)
        if context.batch_policy == "one"
        for family in families(sizes)
    )
    choices = Choices((*CONTEXT_FACETS, "Along"), [a.choice for a in found])
    made = (
        (
            one.choice,
            f"{one.family.title}, {PASSES_WORDS[one.context.passes]}",
            one.context,
            lambda one=one: blocks(one),
        )
        for one in found
    )
    yield from _documents(view, kind, title, lead, choices, made)


def context_documents(
    view: View,
    kind: str,
    title: str,
    lead: str,
    blocks: Callable[[Over], Iterator[Block]],
    wanted: Callable[[Context, Mapping[Size, tuple[Result, ...]]], bool],
) -> Iterator[Document]:
    """Yield a document for each wanted context, and `<kind>.html` with the first.

    Args:
        view: the results.
        kind: name of the page, and the folder of its documents.
        title: heading.
        lead: what the page shows.
        blocks: what one document holds below its choices.
        wanted: whether a context has anything to show here.
    """
    found = tuple(
        Over(
            context=context,
            sizes=sizes,
            choice=Choice(path=of_context(kind, context), values=context_values(view, context)),
        )
        for context, sizes in ordered_contexts(view)
        if wanted(context, sizes)
    )
    choices = Choices(CONTEXT_FACETS, [o.choice for o in found])
    made = (
        (one.choice, _context_title(one.context), one.context, lambda one=one: blocks(one))
        for one in found
    )
    yield from _documents(view, kind, title, lead, choices, made)


def _context_title(context: Context) -> str:
    return (
        f"{PASSES_WORDS[context.passes].capitalize()}, {LEVEL_WORDS[context.level]}, "
        f"{POLICY_WORDS[context.batch_policy]}"
    )


def _documents(
    view: View,
    kind: str,
    title: str,
    lead: str,
    choices: Choices,
    made: Iterator[tuple[Choice, str, Context, Callable[[], Iterator[Block]]]],
) -> Iterator[Document]:
    intro = Paragraph((lead,), "lead")
    first = True
    for choice, words, context, blocks in made:
        machine = view.machine_title(context.hardware_id)
        document = Document(
            path=choice.path,
            title=f"{title}: {words[0].lower()}{words[1:]}",
            summary=f"{title} on {machine}: {words}.",
            context=machine,
            blocks=(intro, choices.facets(choice), *blocks()),
        )
        if first:
            yield replace(
                document,
                path=f"{kind}.html",
                title=title,
                context=f"{machine}: {words}",
                permanent=choice.path,
            )
        first = False
        yield document
    if first:
        nothing = Paragraph(("No results yet.",))
        yield Document(path=f"{kind}.html", title=title, summary=lead, blocks=(intro, nothing))
