"""JSON as strangers may send it: parsed strictly, or refused with a sentence."""

import json
import math
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

LARGEST_FILE_BYTES = 32 * 2**20
"""A variant of the largest plan stays below a tenth of this."""
LONGEST_TEXT = 20_000
"""Characters of a text or key; the longest of any of our formats has a fifth of that."""
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, what turns the direction of a line around, and halves of characters."""
LARGEST_NUMBER = 1e30
"""Neither larger nor, but for 0, closer to 0 than one over this: what follows stays finite, too."""
_MOST_DIGITS = 31
DEEPEST = 16
"""Levels of nesting that any of our formats needs, with room."""
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False)
LINE_LENGTH = 120
"""Objects and arrays that fit into a line are written on one."""


class StrictJsonError(ValueError):
    """The text is not the JSON we accept."""


def read(path: Path) -> bytes:
    """Return the contents of a plain file; links are not followed, devices are not read.

    Raises:
        StrictJsonError: it is none, is too large, or cannot be read.
    """
    try:
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode):
            raise StrictJsonError("is not a plain file; links and folders are not allowed here")
        if state.st_size > LARGEST_FILE_BYTES:
            raise StrictJsonError(f"{state.st_size:,} bytes, allowed {LARGEST_FILE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise StrictJsonError(f"cannot be read: {error.strerror}") from None


def parse(data: bytes) -> Any:
    """Parse UTF-8 JSON without a byte order mark, duplicate keys, NaN, infinities or deep nesting.

    Texts and keys are of bounded length and hold no control characters but tab and line feed.

    Raises:
        StrictJsonError: with what was found.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise StrictJsonError("starts with a byte order mark; write plain UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_not_too_large,
        )
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError(f"nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise StrictJsonError(f"not JSON: {error}") from None
    _check(value)
    return value


def canonical(value: Any) -> str:
    """Plain JSON data with sorted keys and no spaces: the same text for the same contents."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def pretty(value: Any) -> str:
    """Plain JSON data with sorted keys; what fits stands on one line, so that diffs read well."""
    return _block(value, "") + "\n"


def _block(value: Any, indent: str) -> str:
    line = _scalar(value)
    if not isinstance(value, dict | list) or len(indent) + len(line) <= LINE_LENGTH:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        items = (f"{inner}{_scalar(key)}: {_block(value[key], inner)}" for key in sorted(value))
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _block(item, inner) for item in value) + f"\n{indent}]"


def _scalar(value: Any) -> str:
    return _ENCODER.encode(value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counted = Counter(name for name, _ in pairs)
        twice = sorted(name for name, times in counted.items() if times > 1)
        raise StrictJsonError(f"key {twice[0][:100]!r} occurs more than once in one object")
    return found


def _no_constant(name: str) -> float:
    raise StrictJsonError(
        f"{name} is not a number JSON knows; a missing number is null or left out"
    )


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise StrictJsonError(f"{text[:40]} is too large for a number")
    if number and not 1 / LARGEST_NUMBER <= abs(number) <= LARGEST_NUMBER:
        raise StrictJsonError(f"{text[:40]} is beyond everything that is measured here")
    return number


def _not_too_large(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise StrictJsonError(f"{text[:40]} is beyond everything that is counted here")
    return int(text)


def _check(value: Any) -> None:
    """Look at depth, and at every text on the way."""
    level = [[value]]
    for _ in range(DEEPEST + 2):
        below: list[list[Any]] = []
        for children in level:
            for child in children:
                if isinstance(child, str):
                    _check_text(child)
                elif isinstance(child, list):
                    below.append(child)
                elif isinstance(child, dict):
                    below += [list(child), list(child.values())]
        level = below
        if not level:
            return
    raise StrictJsonError(f"nested deeper than {DEEPEST} levels")


def _check_text(text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise StrictJsonError(f"a text of {len(text):,} characters, allowed {LONGEST_TEXT:,}")
    if found := _FORBIDDEN.search(text):
        raise StrictJsonError(f"U+{ord(found[0]):04X} in a text: write it without that character")
