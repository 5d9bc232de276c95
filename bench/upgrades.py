"""Older file formats -> the newest, in memory. Files are never rewritten."""

from collections.abc import Callable
from typing import Any

from bench.model import SCHEMA

Document = dict[str, Any]


def _with_task_versions(document: Document) -> Document:
    """1 -> 2: records of tasks say which state of the task was trained.

    While schema 1 was written there was one task, `digits`, at revision 1; its recipe was not kept.
    """
    upgraded_document = {**document, "schema": 2}
    if "records" in document:
        upgraded_document["records"] = [_with_task_version(r) for r in document["records"]]
    return upgraded_document


def _with_task_version(record: Any) -> Any:
    match record:
        case {"case": {"stimulus": {"kind": "task"}}}:
            return {**record, "task": {"revision": 1, "recipe_sha256": None}}
        case _:
            return record


UPGRADES: dict[int, Callable[[Document], Document]] = {1: _with_task_versions}
"""Schema number -> function that returns a document with the next number. Each gets a folder in
tests/history that must load for ever."""


class SchemaError(ValueError):
    """A document of a schema that is not known here."""


def upgraded(document: Document) -> Document:
    """Return `document` in the newest schema.

    Raises:
        SchemaError: no schema number, or a newer one.
    """
    number = document.get("schema")
    if type(number) is not int or number < 1:
        shown = repr(number)[:100]
        raise SchemaError(f"schema: got {shown}, must be a whole number from 1 to {SCHEMA}")
    if number > SCHEMA:
        raise SchemaError(
            f"schema: {number} is newer than {SCHEMA}, the newest known here; update attnbench"
        )
    for step in range(number, SCHEMA):
        document = UPGRADES[step](document)
    return document
