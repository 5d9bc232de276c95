"""How busy others keep this machine. Imports no torch."""

import os
import time
from collections.abc import Sequence
from typing import Any

import psutil

BUSY_CPUS = 0.3
"""CPUs kept busy by others above which a machine is not quiet."""
_BUSY_SHARE = 0.1
"""A run is busy when more than this share of its visits saw a busy machine."""


def is_busy(load: Sequence[float]) -> bool:
    """Whether a run is busy, whose visits saw so many CPUs kept busy by others."""
    return sum(value > BUSY_CPUS for value in load) > _BUSY_SHARE * len(load)


def busy_seconds() -> float:
    """CPU seconds spent on anything since boot, time stolen by the hypervisor included.

    A process that is pinned to some of the CPUs sees those only: what runs on the others is no load
    of its own.
    """
    return sum(_busy(times) for times in _times())


def _times() -> tuple[Any, ...]:
    if hasattr(os, "sched_getaffinity"):
        own = os.sched_getaffinity(0)
        if len(own) < (os.cpu_count() or 1):
            every = psutil.cpu_times(percpu=True)
            if max(own) < len(every):
                return tuple(every[cpu] for cpu in sorted(own))
    return (psutil.cpu_times(),)


def _busy(times: Any) -> float:
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return sum(times) - idle - guest


def own_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def own_seconds() -> float:
    """CPU seconds of this process and of its ended children."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def foreign_load(seconds: float) -> float:
    """CPUs kept busy by others, on average over the next `seconds`."""
    busy, own, start = busy_seconds(), own_seconds(), time.monotonic()
    time.sleep(seconds)
    wall = time.monotonic() - start
    return max(0.0, (busy_seconds() - busy - (own_seconds() - own)) / wall)
