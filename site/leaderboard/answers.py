"""What the chooser and the comparison compute with: one file a machine and context, by columns.

The files are scripts that add one entry to `attnbenchAnswers`, because pages that are opened from
disk may load scripts and nothing else.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leaderboard.addresses import execution, ranking, result_id, results_document
from leaderboard.contexts import (
    LEVEL_WORDS,
    PASSES_WORDS,
    POLICY_WORDS,
    Context,
    Size,
    ordered_contexts,
    slug,
)
from leaderboard.format import power, whole
from leaderboard.page import RawFile
from leaderboard.ranking import baseline, noise_floor
from leaderboard.results import EXACTNESS_TITLES, OUTCOME_WORDS, Result, View

USUAL_PX, USUAL_TOKENS = 512, 4096
_METRICS = {"memory": "peak_memory", "energy": "energy", "flops": "flops"}


def key(context: Context) -> str:
    """Return the name of a context's data, which is also its place under data/answers."""
    return f"{slug(context.hardware_id)}/{context.slug}"


def answerable(view: View) -> tuple[tuple[Context, Mapping[Size, tuple[Result, ...]]], ...]:
    """Return the contexts with one sequence a call: their latencies compare."""
    return tuple(
        (context, sizes)
        for context, sizes in ordered_contexts(view)
        if context.batch_policy == "one"
    )


def files(view: View) -> Iterator[RawFile]:
    """Yield the data of every context."""
    for context, sizes in answerable(view):
        packed = json.dumps(
            _data(view, context, sizes), ensure_ascii=True, allow_nan=False, sort_keys=True,
            separators=(",", ":"),
        )  # fmt: skip
        text = f'(window.attnbenchAnswers??={{}})["{key(context)}"]={packed};\n'
        yield RawFile(path=f"data/answers/{key(context)}.js", contents=text.encode())


def _data(view: View, context: Context, sizes: Mapping[Size, tuple[Result, ...]]) -> dict[str, Any]:
    results = [r for found in sizes.values() for r in found]
    firsts = {execution(r): r for r in reversed(results)}
    names = sorted(firsts)
    base = baseline(results, "latency")
    found = _families(sizes)
    places = [(f, s) for f, family in enumerate(found) for s in range(len(family[1]))]
    place_of = {found[f][1][s]: n for n, (f, s) in enumerate(places)}
    documents = sorted({results_document(r) for r in results})
    outcomes = ["ok", *sorted({_outcome(r) for r in results} - {"ok"})]
    cells: dict[str, list[Any]] = {name: [] for name in (
        "execution", "place", "outcome", "document", "digest", "latency", "low", "high", *_METRICS
    )}  # fmt: skip
    for size, members in sizes.items():
        for result in members:
            latency = result.numbers.get("latency") if result.ranked else None
            cells["execution"].append(names.index(execution(result)))
            cells["place"].append(place_of[size])
            cells["outcome"].append(outcomes.index(_outcome(result)))
            cells["document"].append(documents.index(results_document(result)))
            cells["digest"].append(result_id(result))
            cells["latency"].append(None if latency is None else rounded(latency.value))
            cells["low"].append(None if latency is None else rounded(latency.low))
            cells["high"].append(None if latency is None else rounded(latency.high))
            for name, metric in _METRICS.items():
                number = result.numbers.get(metric) if result.ranked else None
                cells[name].append(None if number is None else rounded(number.value))
    return {
        "noise": [noise_floor(sizes[found[f][1][s]]) for f, s in places],
        "baseline": None if base is None else names.index(execution(base)),
        "executions": [_execution(view, name, firsts[name]) for name in names],
        "families": [
            {
                "key": family_key,
                "title": title,
                "axis": axis,
                "image": family_key.startswith("images"),
                "extra": of[0].extra_tokens,
                "sizes": [_size(context, size) for size in of],
            }
            for (family_key, title, axis), of in found
        ],
        "places": places,
        "documents": [f"{path}#" for path in documents],
        "outcomes": outcomes,
        "cells": {name: column for name, column in cells.items() if any_known(column)},
    }


def any_known(column: Sequence[object]) -> bool:
    """Whether a column says anything."""
    return any(value is not None for value in column)


def rounded(value: float | None) -> float | None:
    """Return five digits: what the rest would be is noise, and it would double the files."""
    return None if value is None else float(f"{value:.5g}")


def _outcome(result: Result) -> str:
    if not result.ok:
        return OUTCOME_WORDS.get(result.outcome, result.outcome)
    if result.stale:
        return "stale"
    return "ok" if result.ranked else "implausible"


def _execution(view: View, name: str, first: Result) -> dict[str, Any]:
    mark, entry = view.marks[first.variant], view.variants.get(first.variant)
    return {
        "id": name,
        "variant": first.variant,
        "title": view.title(first.variant),
        "detail": first.detail,
        "kind": view.exactness(first.variant),
        "main": first.backend == "reference" and not first.options,
        "colour": mark.colour_class,
        "dash": mark.dash_class,
        "line": mark.dash,
        "symbol": mark.symbol,
        "order": "not known" if entry is None else power(entry.order),
        "source": "" if entry is None else f"{entry.paper.venue} {entry.paper.year}",
    }


def _size(context: Context, size: Size) -> dict[str, Any]:
    return {
        "slug": size.slug,
        "title": size.title,
        "short": whole(size.tokens) if size.resolution_px is None else f"{size.resolution_px} px",
        "tokens": size.tokens,
        "px": size.resolution_px,
        "path": ranking(context, size),
    }


def _families(
    sizes: Mapping[Size, object],
) -> list[tuple[tuple[str, str, str], list[Size]]]:
    """Sizes that differ in one thing only: ((key, title, axis), small first)."""
    found: dict[tuple[str, str, str], list[Size]] = {}
    for size in sorted(sizes, key=lambda s: s.order):
        if size.resolution_px is not None:
            kind = ("images", "Images", "Image side")
        elif size.height == 1:
            kind = ("sequences", "Sequences", "Tokens in a row")
        else:
            kind = ("grids", "Grids", "Tokens")
        if size.extra_tokens:
            words = f"{kind[1]} and {size.extra_tokens} class tokens"
            kind = (f"{kind[0]}-plus{size.extra_tokens}", words, kind[2])
        found.setdefault(kind, []).append(size)
    return [(kind, found[kind]) for kind in sorted(found, key=lambda k: (k[0] != "images", k))]


def contexts_of(view: View, *, layers_only: bool) -> list[dict[str, Any]]:
    """Return what a form can offer: every context with its words and kinds of sizes.

    Args:
        view: the results.
        layers_only: leave out cores, whole models and causal masks.
    """
    offered: list[dict[str, Any]] = []
    for context, sizes in answerable(view):
        if layers_only and (context.level != "layer" or context.causal):
            continue
        words = f"{context.dtype}, {LEVEL_WORDS[context.level]}, "
        words += f"{POLICY_WORDS[context.batch_policy]}, {context.width}"
        offered.append(
            {
                "machine": slug(context.hardware_id),
                "machineTitle": view.machine_title(context.hardware_id),
                "context": context.slug,
                "passes": context.passes,
                "passesTitle": PASSES_WORDS[context.passes],
                "typeTitle": f"{context.dtype}, {context.width}",
                "title": f"{PASSES_WORDS[context.passes]}, {LEVEL_WORDS[context.level]}, "
                f"{context.dtype}, {context.width}",
                "conditions": words,
                "families": [
                    {
                        "key": family_key,
                        "title": title,
                        "image": family_key.startswith("images"),
                        "usual": _usual(of),
                    }
                    for (family_key, title, _), of in _families(sizes)
                ],
            }
        )
    return offered


def _usual(sizes: Sequence[Size]) -> int:
    """The measured size nearest to the usual one: a side in pixels, or tokens."""
    sides = [s.resolution_px for s in sizes if s.resolution_px is not None]
    if sides:
        return min(sides, key=lambda px: (abs(px - USUAL_PX), px))
    return min((s.tokens for s in sizes), key=lambda n: (abs(n - USUAL_TOKENS), n))


def kinds() -> list[tuple[str, str]]:
    """Return (identifier, title) of each kind of function."""
    return list(EXACTNESS_TITLES.items())
