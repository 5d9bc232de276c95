"""How an environment says that several devices train a network together."""

from collections.abc import Mapping

from bench.model import Scalar

SETTING = "devices_together"
"""Of an environment: how many devices train a network together; absent where one does."""


def together_of(settings: Mapping[str, Scalar | None]) -> int:
    """Return how many devices an environment's settings say that they are."""
    found = settings.get(SETTING, 1)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ValueError(f"{SETTING} is {found!r}, allowed are whole numbers from 1")
    return found
