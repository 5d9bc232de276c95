"""Older file formats -> the newest, in memory. Files are never rewritten."""

from collections.abc import Callable
from typing import Any

from bench.model import SCHEMA

Document = dict[str, Any]

UPGRADES: dict[int, Callable[[Document], Document]] = {}
"""Schema number -> function that returns a document with the next number. None so far: schema 1 is
the first. Each gets a folder in tests/history that must load for ever."""


class SchemaError(ValueError):
    """A document of a schema that is not known here."""


def upgraded(document: Document) -> Document:
    """Return `document` in the newest schema.

    Raises:
        SchemaError: no schema number, or a newer one.
    """
    number = document.get("schema")
    if type(number) is not int or number < 1:
        raise SchemaError(f"schema: got {number!r}, must be a whole number from 1 to {SCHEMA}")
    if number > SCHEMA:
        raise SchemaError(
            f"schema: {number} is newer than {SCHEMA}, the newest known here; update attnbench"
        )
    for step in range(number, SCHEMA):
        document = UPGRADES[step](document)
    return document
