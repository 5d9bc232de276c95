"""How long a plan takes on so many devices of one kind: a bound from below and from above.

    python -m bench.forecast --plan standard --device cuda --slots 1,8,64

Visits are handed to whoever is idle, but some must wait for others: rounds of one case, sizes of
one family in round 0. For any such order, Graham ("Bounds on multiprocessing timing anomalies",
SIAM Journal on Applied Mathematics 17, 1969) shows: with T the time of all visits, C that of the
longest chain and k devices, it takes at least max(T/k, C) and at most T/k + C (k-1)/k.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from bench.dispatch import Dispatch
from bench.model import DeviceKind, Plan
from bench.schedule import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Seconds that a plan takes."""

    slots: int
    least_s: float
    most_s: float


def forecast(
    plan: Plan, device: DeviceKind, slots: int, seconds: Callable[[Turn], float]
) -> Forecast:
    """Bound the time of `plan` on `slots` devices whose visits take `seconds`.

    Raises:
        ValueError: no slots.
    """
    if slots < 1:
        raise ValueError(f"{slots} slots: give at least one")
    total_s, chain_s = Dispatch(plan, device, {}).spans(seconds)
    share_s = total_s / slots
    return Forecast(
        slots=slots,
        least_s=max(share_s, chain_s),
        most_s=share_s + chain_s * (slots - 1) / slots,
    )


def as_measured(journal: Path, device: DeviceKind) -> tuple[Plan, Callable[[Turn], float]]:
    """Return the plan of a journal, and the wall time that each of its visits took there.

    A visit that was spared there counts as nothing.
    """
    from bench.journal import Journal  # noqa: PLC0415 - only this way of asking reads files

    with Journal.open(journal) as read:
        took = {entry.visit: entry.wall_s for entry in read.entries}
        if read.header.environment.device != device:
            raise ValueError(f"{journal} was measured on {read.header.environment.device}")
        return read.header.plan, lambda turn: took.get(turn.visit, 0.0)


def as_planned(plan: Plan, device: DeviceKind) -> Callable[[Turn], float]:
    """Share the plan's expected minutes equally among its visits."""
    mean_s = 60.0 * plan.expected_minutes / Dispatch(plan, device, {}).total
    return lambda _turn: mean_s


@click.command()
@click.option("--plan", "name", default="standard", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--slots", default="1,8,64", show_default=True, help="Numbers of devices.")
@click.option(
    "--journal",
    type=click.Path(path_type=Path, exists=True),
    help="Visits take as long as in this finished journal; default: an equal share of the plan's "
    "expected minutes.",
)
def main(name: str, device: DeviceKind, slots: str, journal: Path | None) -> None:
    """Print how long a plan takes on so many devices."""
    from bench.plan import everything, load_plan  # noqa: PLC0415 - reads every variant

    if journal is None:
        plan = load_plan(name, everything(device))
        seconds = as_planned(plan, device)
    else:
        plan, seconds = as_measured(journal, device)
    for count in slots.split(","):
        found = forecast(plan, device, int(count), seconds)
        sys.stdout.write(
            f"{plan.name} on {count} x {device}: {found.least_s / 60:.1f} to "
            f"{found.most_s / 60:.1f} minutes\n"
        )


if __name__ == "__main__":
    main()
