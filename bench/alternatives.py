"""Options one step away from given ones: what to vary when every path of a variant must be seen."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints


def discrete_alternatives(options: Any) -> Iterator[Any]:
    """Yield `options` with one boolean flipped or one `Literal` field set to another choice.

    Combinations that the options class itself refuses with ValueError are left out.
    """
    hints = get_type_hints(type(options))
    for field in fields(options):
        value = getattr(options, field.name)
        choices = _literals(hints[field.name])
        if isinstance(value, bool):
            choices = (not value,)
        for choice in choices:
            if choice != value:
                yield from _accepted(options, field.name, choice)


def doubled_alternatives(options: Any) -> Iterator[Any]:
    """Yield `options` with one integer field doubled (or raised from 0 to 3)."""
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            yield from _accepted(options, field.name, 2 * value or 3)


_FEW_TOKENS = {"window_tokens": 8, "block_tokens": 4, "bucket_tokens": 8}
"""Sizes at which windows, blocks and buckets of tokens do not hold a whole short sequence."""


def close_up(options: Any) -> Any:
    """Return `options` with sizes in tokens so small that 80 tokens show what thousands do.

    Options without such sizes are returned as they are.
    """
    small = {name: few for name, few in _FEW_TOKENS.items() if hasattr(options, name)}
    return replace(options, **small)


def changed_fields(options: Any, defaults: Any) -> dict[str, bool | int | float | str | None]:
    """Return the fields of `options` that differ from `defaults`."""
    return {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if getattr(options, field.name) != getattr(defaults, field.name)
    }


def _literals(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for part in get_args(hint) for choice in _literals(part))


def _accepted(options: Any, name: str, value: Any) -> Iterator[Any]:
    changed: dict[str, Any] = {name: value}
    try:
        yield replace(options, **changed)
    except ValueError:
        return
