"""The exact JSON form of each noun, and the digest of it."""

import hashlib
import json
from typing import Any

from pydantic import TypeAdapter

_adapters: dict[Any, TypeAdapter[Any]] = {}


def adapter(type_: Any) -> TypeAdapter[Any]:
    """Return the validator of a noun."""
    if type_ not in _adapters:
        _adapters[type_] = TypeAdapter(type_)
    return _adapters[type_]


def to_json(value: Any) -> Any:
    """Return plain dicts, lists and scalars for a noun."""
    return adapter(type(value)).dump_python(value, mode="json")


def from_json(type_: Any, data: Any) -> Any:
    """Validate plain JSON data as `type_`; raises pydantic.ValidationError with paths."""
    return adapter(type_).validate_json(json.dumps(data, allow_nan=False))


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same text for the same contents."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
