"""Where this package is imported from, for the processes that are started anew."""

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The folder that holds the packages; other nodes must have the same files at the same place."""


def import_path(variables: Mapping[str, str]) -> str:
    """Return the `PYTHONPATH` for a process with these variables: this package, then theirs."""
    return os.pathsep.join(filter(None, (str(ROOT), variables.get("PYTHONPATH"))))
