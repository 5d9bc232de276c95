"""How busy others keep this machine. Imports no torch."""

import os
import time

import psutil

BUSY_CPUS = 0.3
"""CPUs kept busy by others above which a machine is not quiet."""


def busy_seconds() -> float:
    """CPU seconds spent on anything since boot, time stolen by the hypervisor included."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return sum(times) - idle - guest


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
