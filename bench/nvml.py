"""The GPU's own sensors, through NVML."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_IDLE = 0x1
_APPLICATION_CLOCKS = 0x2
_NOT_THROTTLING = _IDLE | _APPLICATION_CLOCKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at the sensors; None where the GPU has no such sensor."""

    clock_hz: float | None
    power_w: float | None
    temperature_c: float | None
    throttled: bool | None
    """A clock limit other than idleness or chosen application clocks is active."""


class Sensor:
    """The sensors of one GPU."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    @classmethod
    def of_current_device(cls) -> "Sensor | str":
        """Return the sensors of CUDA device 0 of this process, or why there are none."""
        library: Any = importlib.import_module("pynvml")
        try:
            library.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(0).uuid)
            for form in (f"GPU-{uuid}", f"MIG-{uuid}", uuid):
                try:
                    return cls(library, library.nvmlDeviceGetHandleByUUID(form))
                except library.NVMLError:
                    continue
        except library.NVMLError as failure:
            return f"NVML cannot be used: {type(failure).__name__}: {failure}"
        return "NVML does not know the GPU that torch uses"

    def energy_j(self) -> float | None:
        """Energy since the driver was loaded; None where the GPU does not count it."""
        millijoules = self._read(
            lambda: self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        )
        return None if millijoules is None else millijoules * 1e-3

    def read(self) -> Reading:
        """Look at clock, power, temperature and throttle reasons now."""
        lib, handle = self._library, self._handle
        clock = self._read(lambda: lib.nvmlDeviceGetClockInfo(handle, lib.NVML_CLOCK_SM))
        power = self._read(lambda: lib.nvmlDeviceGetPowerUsage(handle))
        warmth = self._read(lambda: lib.nvmlDeviceGetTemperature(handle, lib.NVML_TEMPERATURE_GPU))
        reasons = self._read(lambda: lib.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return Reading(
            clock_hz=None if clock is None else clock * 1e6,
            power_w=None if power is None else power * 1e-3,
            temperature_c=None if warmth is None else float(warmth),
            throttled=None if reasons is None else bool(reasons & ~_NOT_THROTTLING),
        )

    def driver(self) -> str | None:
        """Version of the driver."""
        version = self._read(self._library.nvmlSystemGetDriverVersion)
        return version.decode() if isinstance(version, bytes) else version

    def power_limit_w(self) -> float | None:
        """Enforced power limit."""
        limit = self._read(lambda: self._library.nvmlDeviceGetEnforcedPowerLimit(self._handle))
        return None if limit is None else limit * 1e-3

    def clock_max_hz(self) -> float | None:
        """Highest SM clock."""
        lib = self._library
        clock = self._read(lambda: lib.nvmlDeviceGetMaxClockInfo(self._handle, lib.NVML_CLOCK_SM))
        return None if clock is None else clock * 1e6

    def _read(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except self._library.NVMLError:
            return None
