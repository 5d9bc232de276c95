"""Files that are written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path, *, until_then: Path | None = None) -> Generator[BinaryIO]:
    """Open a file that takes the place of `path` once the block has ended and it is on the disk.

    Whoever reads `path` meanwhile sees what was there before, also where several write it. Where
    the block or the disk fails that stays, and nothing is left beside it.

    Args:
        path: the file; its folder must exist.
        until_then: the folder, on the same file system, in which it is written; default: of `path`.

    Raises:
        OSError: the disk is full or not writable.
    """
    folder = path.parent if until_then is None else until_then
    unfinished = folder / f".{path.name}.{secrets.token_hex(4)}.unfinished"
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
