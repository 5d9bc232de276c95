"""What machine and software this is."""

import importlib.metadata
import os
import platform
import re
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from bench import allocator, failures, settings
from bench.devices_together import SETTING
from bench.model import DeviceKind, Environment, Scalar
from bench.nvml import Sensor

_PACKAGES = (
    "torch", "numpy", "triton", "fvcore", "pydantic", "psutil", "scikit-learn", "nvidia-ml-py",
    "xformers", "flash-attn",
)  # fmt: skip
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment(device: DeviceKind, threads: int, together: int = 1) -> Environment:
    """Read this machine; call it in a worker, because on `cuda` it starts a CUDA context.

    Args:
        device: of which kind.
        threads: that torch was set to.
        together: devices that train a network together; part of the hardware id, because neither
            times nor rounding are those of one device.

    Raises:
        ValueError: fewer GPUs are visible, or fewer CPUs than processes.
    """
    cpu, cpus = cpu_name(), usable_cpus()
    memory = psutil.virtual_memory().total
    host = Environment(
        hardware_id=hardware_id("cpu", cpu, cpus, memory, together),
        device="cpu",
        device_name=cpu,
        device_memory_bytes=memory,
        cpu=cpu,
        cpu_count=cpus,
        threads=threads,
        os=failures.published(f"{platform.system()} {platform.release()}"),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        torch=str(torch.__version__),
        packages=_packages(),
        settings=_settings() | ({SETTING: together} if together > 1 else {}),
    )
    if device == "cuda":
        return _with_gpu(host, together)
    if cpus < together:
        raise ValueError(f"{cpus} CPUs can be used, {together} processes would train on them")
    return host


def _with_gpu(host: Environment, together: int) -> Environment:
    if torch.cuda.device_count() < together:
        raise ValueError(f"{torch.cuda.device_count()} GPUs are visible, {together} are needed")
    properties = torch.cuda.get_device_properties(0)
    name = failures.published(properties.name)
    sensor = Sensor.of_current_device()
    silent = isinstance(sensor, str)
    return replace(
        host,
        hardware_id=hardware_id("cuda", name, host.cpu_count, properties.total_memory, together),
        device="cuda",
        device_name=name,
        device_memory_bytes=properties.total_memory,
        cuda=torch.version.cuda,
        cudnn=_cudnn(),
        compute_capability=f"{properties.major}.{properties.minor}",
        multiprocessors=properties.multi_processor_count,
        driver=None if silent else sensor.driver(),
        power_limit_w=None if silent else sensor.power_limit_w(),
        clock_max_hz=None if silent else sensor.clock_max_hz(),
    )


def hardware_id(
    device: DeviceKind, name: str, cpu_count: int, memory_bytes: int, together: int = 1
) -> str:
    """Slug of what a result depends on: `amd-epyc-2c-24g`, `nvidia-h200-140g`.

    A CPU is named by model, usable CPUs and memory, a GPU by model and memory; memory is rounded up
    to gibibytes. A MIG slice keeps its profile, which is part of its name. Where several devices
    train a network together, their number follows: `nvidia-h200-140g-x8`.
    """
    words = re.sub(r"\((?:r|tm)\)|\bcpu\b|@.*$|\b\d+-core\b|\bprocessor\b", " ", name.lower())
    slug = re.sub(r"[^a-z0-9.]+", "-", words).strip("-.")
    memory = f"{-(-memory_bytes // 2**30)}g" + (f"-x{together}" if together > 1 else "")
    if device == "cpu":
        return f"{slug}-{cpu_count}c-{memory}"
    if not slug.startswith("nvidia"):
        slug = f"nvidia-{slug}"
    slug = re.sub(r"-\d+gb\b", "", slug) if "mig" not in slug else slug
    return f"{slug}-{memory}"


def usable_cpus() -> int:
    """CPUs that this process may use: affinity, then the container's quota."""
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, _, period = quota.read_text().strip().partition(" ")
        if limit != "max":
            affinity = min(affinity, max(1, int(limit) // int(period)))
    return affinity


def cpu_name() -> str:
    """The CPU's model as the system reports it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", listing.read_text(), re.MULTILINE)
        if found:
            return failures.published(found[1])
    return failures.published(platform.processor() or platform.machine())


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _settings() -> dict[str, Scalar | None]:
    return {
        **settings.read(),
        "allocator_cold": "glibc defaults" if allocator.uncontrolled() is None else "as found",
        "allocator_warm": (
            "M_MMAP_MAX=0 M_TRIM_THRESHOLD=max M_TOP_PAD=64MiB"
            if allocator.uncontrolled() is None
            else "as found"
        ),
        "governor": _line(_CPUFREQ / "scaling_governor"),
        "clock_max_khz": _line(_CPUFREQ / "cpuinfo_max_freq"),
        "turbo_off": _line(Path("/sys/devices/system/cpu/intel_pstate/no_turbo")),
        "transparent_hugepages": _chosen(_line(_HUGE_PAGES)),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _line(path: Path) -> str | None:
    try:
        return failures.published(path.read_text())
    except OSError:
        return None


def _chosen(options: str | None) -> str | None:
    """The bracketed one of `always [madvise] never`."""
    found = re.search(r"\[(\w+)\]", options or "")
    return found[1] if found else None


def _cudnn() -> str | None:
    version = torch.backends.cudnn.version()
    return None if version is None else str(version)
