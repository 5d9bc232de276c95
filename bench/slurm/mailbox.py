"""Messages between nodes through files that both see: one JSON object a line, only ever appended.

Each file has one writer. Both ends open it anew every time: a network file system shows what
another node wrote when a file is closed there and then opened here (close-to-open).
"""

import json
from pathlib import Path
from typing import Any

Message = dict[str, Any]
"""A JSON object."""


class Outbox:
    """The writing end."""

    def __init__(self, path: Path) -> None:
        """Go on after what is there; the torn line of a writer that was killed is ended."""
        self._path = path
        if path.exists() and path.stat().st_size:
            with path.open("r+b") as file:
                file.seek(-1, 2)
                if file.read() != b"\n":
                    file.write(b"\n")

    def send(self, message: Message) -> None:
        """Append a message; other nodes can read it when this returns.

        Raises:
            OSError: the folder is gone or full.
        """
        with self._path.open("ab") as file:
            file.write(json.dumps(message).encode() + b"\n")


class Inbox:
    """The reading end."""

    def __init__(self, path: Path) -> None:
        """Begin at the first message."""
        self._path = path
        self._offset = 0

    def messages(self) -> list[Message]:
        """Return what was written since the last call; nothing while there is no file."""
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(self._offset)
                data = file.readall()
        except FileNotFoundError:
            return []
        whole, end, _unfinished = data.rpartition(b"\n")
        if not end:
            return []
        self._offset += len(whole) + 1
        return [message for line in whole.split(b"\n") if (message := _message(line)) is not None]


def _message(line: bytes) -> Message | None:
    """The message of a line; None for one that its writer did not live to finish."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
