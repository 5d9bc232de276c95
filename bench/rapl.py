"""Energy of the CPU package from RAPL's counters, where the system lets us read them."""

from pathlib import Path

_ROOT = Path("/sys/class/powercap")


def packages(root: Path = _ROOT) -> tuple[Path, ...] | str:
    """Return the counter of each CPU package, or why there is none that can be read."""
    zones = sorted(root.glob("*-rapl:[0-9]")) if root.is_dir() else []
    if not zones:
        return "this machine shows no RAPL counter (virtual machines hide it)"
    try:
        for zone in zones:
            (zone / "energy_uj").read_text()
    except OSError as failure:
        return f"RAPL's counter cannot be read: {failure.strerror}"
    return tuple(zones)


def spent_j(before: dict[Path, int], after: dict[Path, int]) -> float:
    """Joules between two readings; a counter that wrapped around once is put right."""
    total = 0
    for zone, start in before.items():
        used = after[zone] - start
        if used < 0:
            used += int((zone / "max_energy_range_uj").read_text())
        total += used
    return total * 1e-6


def read(zones: tuple[Path, ...]) -> dict[Path, int]:
    """Microjoules of each package since an arbitrary start."""
    return {zone: int((zone / "energy_uj").read_text()) for zone in zones}
