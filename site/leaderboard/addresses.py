"""Addresses of documents, made of what a document shows: they never come to show something else.

What is added later gets addresses of its own; only documents without a choice in their address
(`leaderboard.html`) show what is current.
"""

import hashlib
from urllib.parse import urlencode

from leaderboard.contexts import Context, Size, context_of, slug
from leaderboard.results import Result


def execution(result: Result) -> str:
    """Return the stable name of variant, backend and options, e.g. `softmax~sdpa`."""
    return f"{result.variant}~{_backend(result)}"


def _backend(result: Result) -> str:
    if not result.options:
        return result.backend
    digest = hashlib.sha256(result.options.encode()).hexdigest()[:8]
    return f"{result.backend}~{digest}"


def results_document(result: Result) -> str:
    """Return the document of a result: one execution in one context of one run."""
    folder = f"results/{result.run_id}/{result.variant}"
    return f"{folder}/{_backend(result)}~{_setting(result)}.html"


def result_id(result: Result) -> str:
    """Return the place of a result within its document: the digest at the end of its case id."""
    return f"c-{slug(result.case_id.rpartition('#')[2])}"


def result_address(result: Result) -> str:
    """Return the permanent address of one result."""
    return f"{results_document(result)}#{result_id(result)}"


def _setting(result: Result) -> str:
    context = context_of(result)
    if context is not None:
        return context.slug
    if result.task is not None:
        return slug(f"task-{result.task}")
    return slug(f"{result.stimulus}-{result.dtype}-{result.passes}-{result.level}")


def ranking(context: Context, size: Size) -> str:
    """Return the document that ranks everything of one context and size."""
    return f"leaderboard/{slug(context.hardware_id)}/{context.slug}/{size.slug}.html"


def along(kind: str, context: Context, family: str) -> str:
    """Return the document of page `kind` with one context over the sizes of one family."""
    return f"{kind}/{slug(context.hardware_id)}/{context.slug}/{family}.html"


def of_context(kind: str, context: Context) -> str:
    """Return the document of page `kind` with one context over all sizes."""
    return f"{kind}/{slug(context.hardware_id)}/{context.slug}.html"


def machine(hardware_id: str) -> str:
    """Return the document of a machine."""
    return f"machines/{slug(hardware_id)}.html"


def run(run_id: str) -> str:
    """Return the document of a run."""
    return f"runs/{slug(run_id)}.html"


def task(name: str) -> str:
    """Return the document of a task."""
    return f"tasks/{name}.html"


def comparison(results: tuple[Result, ...]) -> str:
    """Return the address that compares up to six results of one context."""
    context = context_of(results[0])
    if context is None:
        raise ValueError(f"{results[0].case_id}: only timed results are compared")
    query = urlencode(
        {
            "v": "1",
            "machine": slug(context.hardware_id),
            "context": context.slug,
            "e": ",".join(execution(r) for r in results[:6]),
        },
        safe="~,",
    )
    return f"compare.html?{query}"
