"""Turns exceptions and logs into outcomes that can be published."""

import contextlib
import getpass
import re
import socket
import traceback
from pathlib import Path

from bench.model import Crashed, Outcome, OutOfMemory

_LAST_LINES = 12
_LONGEST = 1500
_MESSAGES = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "std::bad_alloc",
    "alloc_failed",
)
_REQUESTED = re.compile(r"[Tt]ried to allocate ([\d.]+) ?([KMGT]i?B|bytes)")
_SCALES = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_PATH = re.compile(r"(?<![\w.\-])(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\"(),]+[\\/])*([^\s\\/:'\"(),]+)")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def is_out_of_memory(failure: BaseException) -> bool:
    """Whether an exception says that an allocation failed."""
    if isinstance(failure, MemoryError):
        return True
    if type(failure).__name__ == "OutOfMemoryError":
        return True
    text = str(failure).lower()
    return isinstance(failure, RuntimeError | OSError) and any(m in text for m in _MESSAGES)


def out_of_memory(failure: BaseException, limit_bytes: int | None) -> OutOfMemory:
    """Build the outcome of a failed allocation, with its size where the message says."""
    text = str(failure) or type(failure).__name__
    found = _REQUESTED.search(text)
    requested = None
    if found:
        requested = max(1, round(float(found[1]) * _SCALES[found[2]]))
    return OutOfMemory(
        requested_bytes=requested,
        limit_bytes=limit_bytes,
        reason=published(text.splitlines()[0]),
    )


def raised(failure: BaseException, limit_bytes: int | None) -> Outcome:
    """Build the outcome of a case that raised."""
    if is_out_of_memory(failure):
        return out_of_memory(failure, limit_bytes)
    where = traceback.extract_tb(failure.__traceback__)[-3:]
    trail = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(where))
    return Crashed(
        exit_code=1, reason=published(f"{type(failure).__name__}: {failure}\nat {trail}")
    )


def published(text: str) -> str:
    """The last lines of `text` without paths, names of user and host, control characters, <>."""
    text = _ESCAPE.sub("", text).replace("\r", "\n").replace("<", "(").replace(">", ")")
    text = "".join(c if c == "\n" or (c.isprintable() and ord(c) != 0x7F) else " " for c in text)
    text = _PATH.sub(r"\1", text)
    for private in _private_names():
        text = re.sub(rf"\b{re.escape(private)}\b", "(private)", text)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("USDT:")]
    return "\n".join(lines[-_LAST_LINES:])[-_LONGEST:]


def _private_names() -> set[str]:
    names = {socket.gethostname(), Path.home().name}
    with contextlib.suppress(KeyError, OSError):
        names.add(getpass.getuser())
    return {name for name in names if len(name) > 1 and name not in ("localhost", "root")}
