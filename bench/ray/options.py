"""What is asked of Ray: options of the command line become kinds of devices."""

from dataclasses import dataclass

from bench.executor import Option

OPTIONS = (
    Option(name="address", help="Ray cluster, host:port or ray://... (default: start one)."),
    Option(
        name="gpus",
        help="kinds of GPU and how many of each, such as h100:4,a100:8, by accelerator type or "
        "custom resource (default: all).",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Devices that were asked for."""

    name: str | None
    """Accelerator type or custom resource; None: any."""
    count: int | None
    """Slots of it; None: as many as the cluster has."""


def kinds(text: str | None, together: int = 1) -> tuple[Kind, ...]:
    """Read `h100:4,a100:8`.

    Raises:
        ValueError: it is not of that form, or a number is not one of whole groups.
    """
    if text is None:
        return (Kind(name=None, count=None),)
    found: list[Kind] = []
    for part in text.split(","):
        name, _, count = part.strip().partition(":")
        if not name or not count.isdecimal() or int(count) < 1:
            raise ValueError(f"--gpus {text}: give kinds and numbers, such as h100:4,a100:8")
        if int(count) % together:
            raise ValueError(
                f"--gpus {text}: {count} cannot be put into groups of {together} (--together)"
            )
        found.append(Kind(name=name, count=int(count) // together))
    if len({kind.name for kind in found}) != len(found):
        raise ValueError(f"--gpus {text}: a kind is there twice")
    return tuple(found)
