"""Whether the GPU of this process can be trusted now: nobody else on it, and not throttling."""

import importlib
import os
from typing import Any

_SLOWED = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Clock limits that an idle, healthy GPU does not have (NVML's clocks event reasons)."""


def complaint(count: int = 1) -> str | None:
    """Say what is wrong with the first `count` visible GPUs; None: nothing that NVML can see.

    Call it while no worker of ours lives on the GPU: every process there is then somebody else's,
    also where a container hides whose.
    """
    library: Any = importlib.import_module("pynvml")
    try:
        library.nvmlInit()
        found = (judged(library, _handle(library, place)) for place in range(count))
        return next((words for words in found if words is not None), None)
    except library.NVMLError:
        return None


def judged(library: Any, handle: Any) -> str | None:
    """Say what is wrong with the GPU of `handle`."""
    others = library.nvmlDeviceGetComputeRunningProcesses(handle)
    if others:
        held = sum(process.usedGpuMemory or 0 for process in others)
        return (
            f"{len(others)} foreign process{'es' if len(others) > 1 else ''} on it, "
            f"holding {held / 2**20:.0f} MiB"
        )
    reasons = library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    slowed = [words for bit, words in _SLOWED.items() if reasons & bit]
    return f"throttling: {', '.join(slowed)}" if slowed else None


def _handle(library: Any, place: int) -> Any:
    """The device that CUDA calls `place` in a worker of this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return library.nvmlDeviceGetHandleByIndex(place)
    name = visible.split(",")[place].strip()
    if name.isdecimal():
        return library.nvmlDeviceGetHandleByIndex(int(name))
    return library.nvmlDeviceGetHandleByUUID(name)
